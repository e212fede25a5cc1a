import { DROP_REASONS, type DropReason, type Offender } from './drops.js'
import {
  type ForwardingState,
  MAX_SOURCES,
  type NextHop,
  VERIFY_MODES,
} from './forwarding-table.js'

/**
 * The control protocol between the daemon and its packet path, over a stream
 * socket. Every request gets one reply of the same type, in order. Numbers are
 * in network order.
 *
 *   +----------------+--------+---------------------+
 *   | payload length |  type  |       payload       |
 *   |    4 bytes     | 1 byte |                     |
 *   +----------------+--------+---------------------+
 *
 * `hello` and `stop` keep their meaning for ever, so that a daemon of any
 * version can find out what runs and end it.
 */
export const PATH_PROTOCOL = 1

export const PathMessage = {
  hello: 1, // request: empty; reply: protocol (u16), pid (u32), label
  stop: 2, // reply: empty, then the path ends
  forwarding: 3, // request: the whole ForwardingState; reply: empty once it is in force
  permit: 4, // request: deadline in ms of CLOCK_BOOTTIME (f64); reply: empty
  statistics: 5, // reply: PathStatistics
} as const

export type PathMessageType = (typeof PathMessage)[keyof typeof PathMessage]

export const FRAME_HEADER = 5

/** Room for the state of 65,536 remotes with all their sources. */
export const MAX_PAYLOAD = 4 << 20

export function encodeFrame(type: PathMessageType, payload: Uint8Array): Buffer {
  const frame = Buffer.alloc(FRAME_HEADER + payload.length)
  frame.writeUInt32BE(payload.length, 0)
  frame.writeUInt8(type, 4)
  frame.set(payload, FRAME_HEADER)
  return frame
}

export interface Frame {
  readonly type: number
  readonly payload: Buffer
}

/** Cuts a byte stream into frames, however it was chopped up on the way. */
export class FrameReader {
  #pending = Buffer.alloc(0)

  /** Takes a chunk and returns the frames it completes. Throws RangeError on a frame too large. */
  push(chunk: Uint8Array): Frame[] {
    this.#pending = Buffer.concat([this.#pending, chunk])
    const frames: Frame[] = []
    while (this.#pending.length >= FRAME_HEADER) {
      const length = this.#pending.readUInt32BE(0)
      if (length > MAX_PAYLOAD) throw new RangeError(`control frame of ${length} bytes`)
      const end = FRAME_HEADER + length
      if (this.#pending.length < end) break
      frames.push({
        type: this.#pending.readUInt8(4),
        payload: this.#pending.subarray(FRAME_HEADER, end),
      })
      this.#pending = this.#pending.subarray(end)
    }
    return frames
  }
}

export interface PathHello {
  readonly protocol: number
  readonly pid: number
  /** What the path was started for: a daemon takes it over only if this is what it needs. */
  readonly label: string
}

export function encodeHello({ protocol, pid, label }: PathHello): Buffer {
  const head = Buffer.alloc(6)
  head.writeUInt16BE(protocol, 0)
  head.writeUInt32BE(pid, 2)
  return Buffer.concat([head, Buffer.from(label)])
}

/** Throws RangeError when the payload is too short, as all decoders here do. */
export function decodeHello(payload: Buffer): PathHello {
  return {
    protocol: payload.readUInt16BE(0),
    pid: payload.readUInt32BE(2),
    label: payload.toString('utf8', 6),
  }
}

export function encodePermit(untilMs: number): Buffer {
  const payload = Buffer.alloc(8)
  payload.writeDoubleBE(untilMs)
  return payload
}

export function decodePermit(payload: Buffer): number {
  return payload.readDoubleBE(0)
}

/** network, length, subnet, length, verify, hop count */
const STATE_HEADER = 4 + 1 + 4 + 1 + 1 + 4
/** network, length, address, port, source count */
const HOP_HEADER = 4 + 1 + 4 + 2 + 1

export function encodeForwarding(state: ForwardingState): Buffer {
  const size = state.hops.reduce(
    (sum, hop) => sum + HOP_HEADER + 4 * Math.min(hop.sources.length, MAX_SOURCES),
    STATE_HEADER,
  )
  const payload = Buffer.alloc(size)
  let at = payload.writeUInt32BE(state.network, 0)
  at = payload.writeUInt8(state.networkLength, at)
  at = payload.writeUInt32BE(state.subnet, at)
  at = payload.writeUInt8(state.subnetLength, at)
  at = payload.writeUInt8(VERIFY_MODES.indexOf(state.verify), at)
  at = payload.writeUInt32BE(state.hops.length, at)
  for (const hop of state.hops) {
    const sources = hop.sources.slice(0, MAX_SOURCES)
    at = payload.writeUInt32BE(hop.network, at)
    at = payload.writeUInt8(hop.length, at)
    at = payload.writeUInt32BE(hop.address, at)
    at = payload.writeUInt16BE(hop.port, at)
    at = payload.writeUInt8(sources.length, at)
    for (const source of sources) at = payload.writeUInt32BE(source, at)
  }
  return payload
}

/** Throws RangeError when the payload is not what encodeForwarding writes. */
export function decodeForwarding(payload: Buffer): ForwardingState {
  const verify = VERIFY_MODES[payload.readUInt8(10)]
  if (verify === undefined) throw new RangeError('unknown verify mode')
  const networkLength = readLength(payload, 4)
  const subnetLength = readLength(payload, 9)
  const count = payload.readUInt32BE(11)
  const hops: NextHop[] = []
  let at = STATE_HEADER
  for (let index = 0; index < count; index++) {
    const sourceCount = payload.readUInt8(at + 11)
    if (sourceCount > MAX_SOURCES) throw new RangeError('too many sources')
    const sources: number[] = []
    for (let source = 0; source < sourceCount; source++) {
      sources.push(payload.readUInt32BE(at + HOP_HEADER + 4 * source))
    }
    hops.push({
      network: payload.readUInt32BE(at),
      length: readLength(payload, at + 4),
      address: payload.readUInt32BE(at + 5),
      port: payload.readUInt16BE(at + 9),
      sources,
    })
    at += HOP_HEADER + 4 * sourceCount
  }
  if (at !== payload.length)
    throw new RangeError('trailing bytes after the last next hop')
  return {
    network: payload.readUInt32BE(0),
    networkLength,
    subnet: payload.readUInt32BE(5),
    subnetLength,
    verify,
    hops,
  }
}

function readLength(payload: Buffer, at: number): number {
  const length = payload.readUInt8(at)
  if (length > 32) throw new RangeError(`prefix length ${length}`)
  return length
}

/** Counters of the packet path since it started. */
export const TRAFFIC_COUNTERS = [
  'sentPackets',
  'sentBytes',
  'sendCalls',
  'receivedPackets',
  'receivedBytes',
  'receiveCalls',
  'tunReads',
  'tunWrites',
  'icmpErrors',
] as const

export type TrafficCounter = (typeof TRAFFIC_COUNTERS)[number]
export type Traffic = Record<TrafficCounter, number>

export function zeroTraffic(): Traffic {
  return Object.fromEntries(TRAFFIC_COUNTERS.map(name => [name, 0])) as Traffic
}

export interface PathStatistics {
  readonly traffic: Readonly<Traffic>
  readonly drops: Readonly<Record<DropReason, number>>
  readonly offenders: readonly Offender[]
}

/** reason, outer, inner, count */
const OFFENDER_BYTES = 1 + 4 + 4 + 8

export function encodeStatistics(
  traffic: Readonly<Traffic>,
  drops: Float64Array,
  offenders: readonly Offender[],
): Buffer {
  const payload = Buffer.alloc(
    2 +
      8 * TRAFFIC_COUNTERS.length +
      8 * drops.length +
      OFFENDER_BYTES * offenders.length,
  )
  let at = payload.writeUInt8(TRAFFIC_COUNTERS.length, 0)
  at = payload.writeUInt8(drops.length, at)
  for (const name of TRAFFIC_COUNTERS) at = payload.writeDoubleBE(traffic[name], at)
  for (const value of drops) at = payload.writeDoubleBE(value, at)
  for (const { reason, outer, inner, count } of offenders) {
    at = payload.writeUInt8(reason, at)
    at = payload.writeUInt32BE(outer, at)
    at = payload.writeUInt32BE(inner, at)
    at = payload.writeDoubleBE(count, at)
  }
  return payload
}

/** Throws RangeError when the payload is not what encodeStatistics writes, in this version or another. */
export function decodeStatistics(payload: Buffer): PathStatistics {
  const trafficCount = payload.readUInt8(0)
  const dropCount = payload.readUInt8(1)
  const trafficStart = 2
  const dropStart = trafficStart + 8 * trafficCount
  const offendersStart = dropStart + 8 * dropCount
  if (
    payload.length < offendersStart ||
    (payload.length - offendersStart) % OFFENDER_BYTES !== 0
  ) {
    throw new RangeError(`statistics of ${payload.length} bytes`)
  }
  const offenders: Offender[] = []
  for (let at = offendersStart; at < payload.length; at += OFFENDER_BYTES) {
    offenders.push({
      reason: payload.readUInt8(at),
      outer: payload.readUInt32BE(at + 1),
      inner: payload.readUInt32BE(at + 5),
      count: payload.readDoubleBE(at + 9),
    })
  }
  return {
    traffic: readNamed(payload, trafficStart, trafficCount, TRAFFIC_COUNTERS),
    drops: readNamed(payload, dropStart, dropCount, DROP_REASONS),
    offenders,
  }
}

/** Reads doubles into a record; a name that the sender does not count is 0. */
function readNamed<Name extends string>(
  payload: Buffer,
  start: number,
  count: number,
  names: readonly Name[],
): Record<Name, number> {
  const entries = names.map((name, index): [Name, number] => [
    name,
    index < count ? payload.readDoubleBE(start + 8 * index) : 0,
  ])
  return Object.fromEntries(entries) as Record<Name, number>
}
