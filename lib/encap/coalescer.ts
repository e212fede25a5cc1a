import { readUint32, writeUint16 } from './bytes.js'
import { fold, internetChecksum, sumPseudoHeader } from './checksum.js'
import {
  endsRun,
  flowProtocol,
  hashFlow,
  isSameFlow,
  isSameIp,
  isSameTcp,
  joinableHeader,
} from './flow.js'
import {
  CHECKSUM,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PAYLOAD_LENGTH,
  PROTOCOL,
  PROTOCOL_TCP,
  TOTAL_LENGTH,
  versionOf,
} from './ip.js'
import type { PacketMemory } from './packet-memory.js'
import {
  FIN,
  FLAGS,
  PSH,
  SEQUENCE,
  TCP_CHECKSUM,
  UDP_CHECKSUM,
  UDP_LENGTH,
} from './transport.js'
import { Gso, VIRTIO_HEADER, writeSuperVirtio } from './virtio.js'

/** The longest packet there is (RFC 791). */
const MAX_PACKET = 65_535

/** The kernel joins no more UDP datagrams either (UDP_GRO_CNT_MAX). */
const MAX_UDP_RUN = 64

/** Flows whose runs may grow at the same time, a power of two. */
const OPEN_RUNS = 64

const NONE = -1

/** Which kinds of super-packets the device takes. */
export interface Joinable {
  readonly tcp: boolean
  readonly udp: boolean
}

/**
 * Joins packets of one flow that follow each other into runs, each of which the
 * kernel takes as one super-packet. Packets stay where they are: a run is a new
 * header and a chain of payloads. What cannot be joined is a run of one.
 *
 * A run that is cut again gives the same packets (apart from the identification
 * of IPv4 packets that may not be fragmented, which means nothing, RFC 6864).
 * Every packet's checksum is verified before it is joined, since a joined packet
 * is vouched for.
 *
 * Runs are in the order of their first packets, and packets of a flow keep
 * theirs. All is allocated once.
 */
export class Coalescer {
  /** Runs since the last reset. */
  runs = 0
  readonly #memory: PacketMemory
  readonly #joinable: Joinable
  readonly #capacity: number
  #packets = 0

  // Of packets.
  readonly #start: Int32Array
  readonly #length: Int32Array
  readonly #next: Int32Array

  // Of runs.
  readonly #first: Int32Array
  readonly #last: Int32Array
  readonly #count: Int32Array
  readonly #ipLength: Int32Array
  /** Of IP and transport header together. */
  readonly #headerLength: Int32Array
  readonly #gsoSize: Int32Array
  readonly #payload: Int32Array
  readonly #nextSequence: Uint32Array
  readonly #isVerified: Uint8Array

  /** The run that a flow's next packet may join, by a hash of the flow. */
  readonly #open = new Int32Array(OPEN_RUNS)

  /** @param capacity packets between two resets. */
  constructor(memory: PacketMemory, capacity: number, joinable: Joinable) {
    const numbers = (): Int32Array => new Int32Array(capacity)
    this.#memory = memory
    this.#joinable = joinable
    this.#capacity = capacity
    this.#start = numbers()
    this.#length = numbers()
    this.#next = numbers()
    this.#first = numbers()
    this.#last = numbers()
    this.#count = numbers()
    this.#ipLength = numbers()
    this.#headerLength = numbers()
    this.#gsoSize = numbers()
    this.#payload = numbers()
    this.#nextSequence = new Uint32Array(capacity)
    this.#isVerified = new Uint8Array(capacity)
    this.reset()
  }

  reset(): void {
    this.runs = 0
    this.#packets = 0
    this.#open.fill(NONE)
  }

  get isFull(): boolean {
    return this.#packets === this.#capacity
  }

  /**
   * Adds a whole IP packet with a sound header. The caller has seen that it is
   * not full, and leaves the bytes in place until the runs are written.
   */
  add(start: number, length: number): void {
    const { bytes } = this.#memory
    const packet = this.#packets++
    this.#start[packet] = start
    this.#length[packet] = length
    this.#next[packet] = NONE

    const protocol = flowProtocol(bytes, start, length)
    const isJoinable =
      protocol !== 0 &&
      (protocol === PROTOCOL_TCP ? this.#joinable.tcp : this.#joinable.udp)
    if (!isJoinable) {
      this.#begin(packet, 0, 0)
      return
    }
    const ipLength = versionOf(bytes, start) === 4 ? IPV4_HEADER : IPV6_HEADER
    const transport = start + ipLength
    const header = joinableHeader(bytes, transport, length - ipLength, protocol)
    const slot = hashFlow(bytes, start, ipLength) & (OPEN_RUNS - 1)
    let run = this.#open[slot]!
    const isOfFlow =
      run !== NONE &&
      this.#ipLength[run] === ipLength &&
      isSameFlow(bytes, this.#start[this.#first[run]!]!, start, ipLength)
    if (header === 0) {
      // What comes behind it must not overtake it.
      if (isOfFlow) this.#open[slot] = NONE
      this.#begin(packet, 0, 0)
      return
    }
    if (isOfFlow && this.#continues(run, packet, ipLength + header, protocol))
      this.#join(run, packet)
    else run = this.#begin(packet, ipLength, ipLength + header)
    const isShort = length - ipLength - header < this.#gsoSize[run]!
    this.#open[slot] = isShort || endsRun(bytes, transport, protocol) ? NONE : run
  }

  /** @param headerLength 0 for a packet that nothing can join. */
  #begin(packet: number, ipLength: number, headerLength: number): number {
    const run = this.runs++
    this.#first[run] = packet
    this.#last[run] = packet
    this.#count[run] = 1
    this.#ipLength[run] = ipLength
    this.#headerLength[run] = headerLength
    if (headerLength === 0) return run
    const start = this.#start[packet]!
    const payload = this.#length[packet]! - headerLength
    this.#gsoSize[run] = payload
    this.#payload[run] = payload
    this.#isVerified[run] = 0
    this.#nextSequence[run] =
      readUint32(this.#memory.bytes, start + ipLength + SEQUENCE) + payload
    return run
  }

  #join(run: number, packet: number): void {
    const payload = this.#length[packet]! - this.#headerLength[run]!
    this.#next[this.#last[run]!] = packet
    this.#last[run] = packet
    this.#count[run]! += 1
    this.#payload[run]! += payload
    this.#nextSequence[run]! += payload
  }

  /** Whether a packet of its flow is the next piece of the run. */
  #continues(
    run: number,
    packet: number,
    headerLength: number,
    protocol: number,
  ): boolean {
    const { bytes } = this.#memory
    const head = this.#start[this.#first[run]!]!
    const start = this.#start[packet]!
    const ipLength = this.#ipLength[run]!
    const count = this.#count[run]!
    const payload = this.#length[packet]! - headerLength
    if (headerLength !== this.#headerLength[run]) return false
    if (payload > this.#gsoSize[run]!) return false
    if (headerLength + this.#payload[run]! + payload > MAX_PACKET) return false
    if (!isSameIp(bytes, head, start, ipLength, count)) return false
    if (protocol === PROTOCOL_TCP) {
      const sequence = readUint32(bytes, start + ipLength + SEQUENCE)
      if (sequence !== this.#nextSequence[run]) return false
      const length = headerLength - ipLength
      if (!isSameTcp(bytes, head + ipLength, start + ipLength, length)) return false
    } else if (count >= MAX_UDP_RUN) return false
    if (this.#isVerified[run] === 0) {
      if (!this.#isSound(this.#first[run]!, ipLength, protocol)) return false
      this.#isVerified[run] = 1
    }
    return this.#isSound(packet, ipLength, protocol)
  }

  /** Whether the transport checksum is right. */
  #isSound(packet: number, ipLength: number, protocol: number): boolean {
    const { bytes, sum } = this.#memory
    const start = this.#start[packet]!
    const length = this.#length[packet]! - ipLength
    const version = ipLength === IPV4_HEADER ? 4 : 6
    const pseudo = sumPseudoHeader(bytes, start, version, protocol, length)
    return fold(pseudo + sum(start + ipLength, length)) === 0xffff
  }

  packetsIn(run: number): number {
    return this.#count[run]!
  }

  bytesIn(run: number): number {
    const first = this.#first[run]!
    if (this.#count[run] === 1) return this.#length[first]!
    return this.#count[run]! * this.#headerLength[run]! + this.#payload[run]!
  }

  firstOf(run: number): number {
    return this.#first[run]!
  }

  /** The packet behind this one in its run, or -1. */
  nextOf(packet: number): number {
    return this.#next[packet]!
  }

  startOf(packet: number): number {
    return this.#start[packet]!
  }

  lengthOf(packet: number): number {
    return this.#length[packet]!
  }

  headerLengthOf(run: number): number {
    return this.#headerLength[run]!
  }

  /**
   * Writes the virtio header of a run of several packets, and its IP and
   * transport header behind that, to `at`. Behind them belong the payloads of
   * its packets. Returns the bytes written.
   */
  writeHeader(run: number, at: number): number {
    const { bytes } = this.#memory
    const head = this.#start[this.#first[run]!]!
    const ipLength = this.#ipLength[run]!
    const headerLength = this.#headerLength[run]!
    const start = at + VIRTIO_HEADER
    const transport = start + ipLength
    bytes.copyWithin(start, head, head + headerLength)
    const total = headerLength + this.#payload[run]!
    const isIpv4 = ipLength === IPV4_HEADER
    if (isIpv4) {
      writeUint16(bytes, start + TOTAL_LENGTH, total)
      writeUint16(bytes, start + CHECKSUM, 0)
      writeUint16(bytes, start + CHECKSUM, internetChecksum(bytes, start, IPV4_HEADER))
    } else writeUint16(bytes, start + PAYLOAD_LENGTH, total - IPV6_HEADER)

    const protocol = bytes[start + (isIpv4 ? PROTOCOL : NEXT_HEADER)]!
    const length = total - ipLength
    const pseudo = sumPseudoHeader(bytes, start, isIpv4 ? 4 : 6, protocol, length)
    const isTcp = protocol === PROTOCOL_TCP
    const checksum = isTcp ? TCP_CHECKSUM : UDP_CHECKSUM
    if (isTcp) {
      const last = this.#start[this.#last[run]!]! + ipLength
      bytes[transport + FLAGS]! |= bytes[last + FLAGS]! & (PSH | FIN)
    } else writeUint16(bytes, transport + UDP_LENGTH, length)
    writeUint16(bytes, transport + checksum, pseudo)
    const type = isTcp ? (isIpv4 ? Gso.tcp4 : Gso.tcp6) : Gso.udp
    const gsoSize = this.#gsoSize[run]!
    writeSuperVirtio(bytes, at, type, headerLength, gsoSize, ipLength, checksum)
    return VIRTIO_HEADER + headerLength
  }
}
