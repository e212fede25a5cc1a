import { DROP_REASONS, type DropReason, type Offender } from './drops.js'
import { type ForwardingState, MAX_SOURCES, VERIFY_MODES } from './forwarding-table.js'
import type { Range } from './subnet-index.js'

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
export const PATH_PROTOCOL = 3

export const PathMessage = {
  hello: 1, // request: empty; reply: protocol (u16), pid (u32), label
  stop: 2, // reply: empty, then the path ends
  forwarding: 3, // request: the whole ForwardingState; reply: empty once it is in force
  permit: 4, // request: deadline in ms of CLOCK_BOOTTIME (f64); reply: empty
  statistics: 5, // reply: PathStatistics
  handover: 6, // reply: empty, with descriptors beside it (SCM_RIGHTS): TUN, socket, sending socket, and a file of PathKnowledge
} as const

export type PathMessageType = (typeof PathMessage)[keyof typeof PathMessage]

export const FRAME_HEADER = 5

/** Room for the state of 65,536 remotes with all their sources. */
export const MAX_PAYLOAD = 16 << 20

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

/**
 * Appends to a payload; the reader below takes it apart again. Addresses and
 * ranges are preceded by the length of what follows.
 */
class PayloadWriter {
  #bytes = Buffer.alloc(4096)
  #at = 0

  #room(size: number): number {
    if (this.#at + size > this.#bytes.length)
      this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length + size)])
    this.#at += size
    return this.#at - size
  }

  uint8(value: number): void {
    const at = this.#room(1)
    this.#bytes.writeUInt8(value, at)
  }

  uint16(value: number): void {
    const at = this.#room(2)
    this.#bytes.writeUInt16BE(value, at)
  }

  uint32(value: number): void {
    const at = this.#room(4)
    this.#bytes.writeUInt32BE(value, at)
  }

  double(value: number): void {
    const at = this.#room(8)
    this.#bytes.writeDoubleBE(value, at)
  }

  address(address: Uint8Array): void {
    this.uint8(address.length)
    const at = this.#room(address.length)
    this.#bytes.set(address, at)
  }

  range({ address, length }: Range): void {
    this.address(address)
    this.uint8(length)
  }

  take(): Buffer {
    return this.#bytes.subarray(0, this.#at)
  }
}

/** Throws RangeError, as Buffer does, when the payload is too short or holds what it must not. */
class PayloadReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  uint8(): number {
    return this.#bytes.readUInt8(this.#at++)
  }

  uint16(): number {
    this.#at += 2
    return this.#bytes.readUInt16BE(this.#at - 2)
  }

  uint32(): number {
    this.#at += 4
    return this.#bytes.readUInt32BE(this.#at - 4)
  }

  double(): number {
    this.#at += 8
    return this.#bytes.readDoubleBE(this.#at - 8)
  }

  /** 4 or 16 bytes; none only where that is allowed. */
  address(isOptional = false): Uint8Array {
    const length = this.uint8()
    if (length !== 4 && length !== 16 && !(isOptional && length === 0))
      throw new RangeError(`an address of ${length} bytes`)
    const address = new Uint8Array(this.#bytes.subarray(this.#at, this.#at + length))
    if (address.length !== length) throw new RangeError('the payload ends in an address')
    this.#at += length
    return address
  }

  range(): Range {
    const address = this.address()
    const length = this.uint8()
    if (length > 8 * address.length) throw new RangeError(`prefix length ${length}`)
    return { address, length }
  }

  /** So many of something, each at least a byte long. */
  times<T>(count: number, read: () => T): T[] {
    if (count > this.#bytes.length) throw new RangeError(`a count of ${count}`)
    return Array.from({ length: count }, read)
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  end(): void {
    if (!this.isAtEnd) throw new RangeError('trailing bytes')
  }
}

export function encodeForwarding(state: ForwardingState): Buffer {
  const payload = new PayloadWriter()
  payload.uint8(VERIFY_MODES.indexOf(state.verify))
  payload.uint8(state.copyDscp ? 1 : 0)
  payload.uint8(state.families.length)
  for (const { network, subnet } of state.families) {
    payload.range(network)
    payload.range(subnet)
  }
  payload.uint32(state.hops.length)
  for (const { subnets, address, port, sources, carriesEcn } of state.hops) {
    payload.uint8(subnets.length)
    for (const subnet of subnets) payload.range(subnet)
    payload.address(address)
    payload.uint16(port)
    payload.uint8(carriesEcn ? 1 : 0)
    payload.uint8(Math.min(sources.length, MAX_SOURCES))
    for (const source of sources.slice(0, MAX_SOURCES)) payload.address(source)
  }
  return payload.take()
}

/** Throws RangeError when the payload is not what encodeForwarding writes. */
export function decodeForwarding(payload: Buffer): ForwardingState {
  const reader = new PayloadReader(payload)
  const verify = VERIFY_MODES[reader.uint8()]
  if (verify === undefined) throw new RangeError('unknown verify mode')
  const copyDscp = reader.uint8() === 1
  const families = reader.times(reader.uint8(), () => ({
    network: reader.range(),
    subnet: reader.range(),
  }))
  const hops = reader.times(reader.uint32(), () => ({
    subnets: reader.times(reader.uint8(), () => reader.range()),
    address: reader.address(),
    port: reader.uint16(),
    carriesEcn: reader.uint8() === 1,
    sources: reader.times(reader.uint8(), () => reader.address()),
  }))
  reader.end()
  return { families, verify, copyDscp, hops }
}

/** What a path was told, for its successor. */
export interface PathKnowledge {
  /** CLOCK_BOOTTIME in ms; 0 when it was told nothing. */
  readonly permitUntil: number
  readonly forwarding: ForwardingState | undefined
}

/** @param forwarding the payload of the message that brought it; empty when none has. */
export function encodeKnowledge(permitUntil: number, forwarding: Uint8Array): Buffer {
  return Buffer.concat([encodePermit(permitUntil), forwarding])
}

export function decodeKnowledge(payload: Buffer): PathKnowledge {
  const permitUntil = decodePermit(payload)
  const rest = payload.subarray(8)
  return {
    permitUntil,
    forwarding: rest.length === 0 ? undefined : decodeForwarding(rest),
  }
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
  // Super-packets taken apart and put together.
  'cutPackets',
  'joinedPackets',
  // Datagrams that the kernel dropped because the socket's buffer was full.
  'socketDrops',
  // Sends that had to go without UDP_SEGMENT.
  'gsoFallbacks',
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

export function encodeStatistics(
  traffic: Readonly<Traffic>,
  drops: Float64Array,
  offenders: readonly Offender[],
): Buffer {
  const payload = new PayloadWriter()
  payload.uint8(TRAFFIC_COUNTERS.length)
  for (const name of TRAFFIC_COUNTERS) payload.double(traffic[name])
  payload.uint8(drops.length)
  for (const value of drops) payload.double(value)
  for (const { reason, outer, inner, count } of offenders) {
    payload.uint8(reason)
    payload.address(outer)
    payload.address(inner)
    payload.double(count)
  }
  return payload.take()
}

/** Throws RangeError when the payload is not what encodeStatistics writes, in this version or another. */
export function decodeStatistics(payload: Buffer): PathStatistics {
  const reader = new PayloadReader(payload)
  const doubles = (): number[] => reader.times(reader.uint8(), () => reader.double())
  const traffic = doubles()
  const drops = doubles()
  const offenders: Offender[] = []
  while (!reader.isAtEnd) {
    offenders.push({
      reason: reader.uint8(),
      outer: reader.address(),
      inner: reader.address(true),
      count: reader.double(),
    })
  }
  return {
    traffic: named(traffic, TRAFFIC_COUNTERS),
    drops: named(drops, DROP_REASONS),
    offenders,
  }
}

/** A name that the sender does not count is 0. */
function named<Name extends string>(
  values: readonly number[],
  names: readonly Name[],
): Record<Name, number> {
  const entries = names.map((name, index): [Name, number] => [name, values[index] ?? 0])
  return Object.fromEntries(entries) as Record<Name, number>
}
