import type { DropLedger } from '../../encap/drops.js'
import { Drop } from '../../encap/drops.js'
import { completeChecksum } from '../../encap/complete-checksum.js'
import { type ForwardingTable, SOCKADDR } from '../../encap/forwarding-table.js'
import { routeOutbound } from '../../encap/forward.js'
import { IcmpError } from '../../encap/icmp.js'
import { DONT_FRAGMENT, FRAGMENT, trafficClassOf, versionOf } from '../../encap/ip.js'
import { readUint16 } from '../../encap/bytes.js'
import type { PacketMemory } from '../../encap/packet-memory.js'
import type { Traffic } from '../../encap/path-control.js'
import { SuperPacket } from '../../encap/super-packet.js'
import { MAX_HEADERS } from '../../encap/transport.js'
import {
  Gso,
  VIRTIO_HEADER,
  gsoSizeOf,
  gsoTypeOf,
  needsChecksum,
} from '../../encap/virtio.js'
import { SendQueue } from '../../linux/datagrams.js'
import * as libc from '../../linux/libc.js'
import { HopLimits } from './hop-limits.js'
import { ANSWER_MEMORY, IcmpAnswers } from './icmp-answers.js'

/** Packets read before the other direction and the control socket get their turn. */
const BATCH = 128

/** Super-packets are that much longer that a few of them are a turn. */
const SUPER_BATCH = 4

/** The longest packet, and the virtio header before it. */
const LONGEST = VIRTIO_HEADER + 65_535

/**
 * Datagrams in one message. The kernel takes 63 before Linux 6.9 (UDP_MAX_SEGMENTS
 * with the header counted), and a message as long as a UDP packet may be.
 */
const MAX_SEGMENTS = 63
const MAX_MESSAGE = 65_000

const HEADER_ROOM = Math.ceil(MAX_HEADERS / 64) * 64
const HEADERS = 128

const AF_INET = 2

/** Bytes of packet memory that an Outbound needs. */
export const OUTBOUND_MEMORY = 2 * LONGEST + HEADERS * HEADER_ROOM + ANSWER_MEMORY + 64

export interface OutboundOptions {
  readonly memory: PacketMemory
  /** Where its OUTBOUND_MEMORY bytes begin. */
  readonly start: number
  readonly tun: number
  readonly socket: number
  readonly hasSegments: boolean
  readonly calls: libc.PacketCalls
  readonly routeMtu: (name: Uint8Array) => number
  readonly traffic: Traffic
  readonly drops: DropLedger
}

/**
 * From the TUN device to the underlay.
 *
 *   read ─► routeOutbound ─┬─► small: packed together until the device is empty ─┬─► sendmmsg
 *                          └─► super-packet: cut, its payload where it is ───────┘
 *
 * Small packets are packed closely behind each other, and every super-packet is
 * read into the same place, so that what is worked on stays in the cache.
 */
export class Outbound {
  readonly #memory: PacketMemory
  readonly #bytes: Uint8Array
  readonly #base: number
  readonly #tun: number
  readonly #socket: number
  readonly #hasSegments: boolean
  readonly #traffic: Traffic
  readonly #drops: DropLedger
  readonly #calls: libc.PacketCalls
  readonly #limits: HopLimits
  readonly #answers: IcmpAnswers
  readonly #super: SuperPacket
  readonly #queue: SendQueue

  // Where things lie in the memory.
  readonly #packets: number
  readonly #headers: number
  readonly #headersEnd: number

  // Packets that wait to be sent.
  #waiting = 0
  readonly #start = new Int32Array(BATCH)
  readonly #length = new Int32Array(BATCH)
  readonly #hop = new Int32Array(BATCH)
  readonly #class = new Uint8Array(BATCH)

  // Of the messages in the queue.
  readonly #hopOf = new Int32Array(BATCH)
  readonly #packetsOf = new Int32Array(BATCH)
  readonly #bytesOf = new Int32Array(BATCH)
  /** The first packet of each, or its headers alone. */
  readonly #startOf = new Int32Array(BATCH)
  readonly #lengthOf = new Int32Array(BATCH)

  #table: ForwardingTable | undefined
  #sockaddrs = 0
  #isIpv4 = true

  constructor(options: OutboundOptions) {
    const { memory, start, calls } = options
    this.#calls = calls
    this.#limits = new HopLimits(options.routeMtu)
    this.#memory = memory
    this.#bytes = memory.bytes
    this.#base = libc.addressOf(memory.bytes)
    this.#tun = options.tun
    this.#socket = options.socket
    this.#hasSegments = options.hasSegments
    this.#traffic = options.traffic
    this.#drops = options.drops
    this.#super = new SuperPacket(memory)
    this.#queue = new SendQueue(
      memory.bytes,
      { messages: BATCH, slices: 2 * HEADERS },
      calls,
    )
    this.#packets = start
    this.#headers = start + 2 * LONGEST
    this.#headersEnd = this.#headers + HEADERS * HEADER_ROOM
    this.#answers = new IcmpAnswers({ ...options, start: this.#headersEnd })
  }

  useTable(table: ForwardingTable): void {
    this.#table = table
    this.#limits.useTable(table)
    this.#sockaddrs = table.hopCount === 0 ? 0 : libc.addressOf(table.sockaddrs)
    this.#isIpv4 = table.sockaddrs[0] === AF_INET
  }

  /** Takes up to a batch of packets from the device and sends them to their remotes. */
  run(nowMs: number, isPermitted: boolean): void {
    const table = isPermitted ? this.#table : undefined
    let at = this.#packets
    let supers = 0
    for (let reads = 0; reads < BATCH && supers < SUPER_BATCH; reads++) {
      const size = this.#calls.read(this.#tun, this.#base + at, LONGEST)
      if (size < VIRTIO_HEADER) break
      this.#traffic.tunReads += 1
      if (table === undefined) {
        this.#drops.count(Drop.noPermit)
        continue
      }
      const start = at + VIRTIO_HEADER
      const length = size - VIRTIO_HEADER
      const hop = routeOutbound(this.#bytes, start, length, table)
      if (hop < 0) {
        this.#drops.count(-hop)
        if (hop === -Drop.noRoute)
          this.#answers.write(IcmpError.netUnreachable, 0, start, length, table, nowMs)
      } else if (gsoTypeOf(this.#bytes, at) === Gso.none) {
        if (!this.#admit(hop, start, length, length, table, nowMs)) continue
        if (!this.#wait(hop, start, length, table)) continue
        at = (start + length + 7) & ~7
        if (at - this.#packets <= LONGEST) continue
        this.#flush(nowMs)
        at = this.#packets
      } else {
        supers += 1
        this.#flush(nowMs)
        this.#sendSuper(hop, at, length, table, nowMs)
        at = this.#packets
      }
    }
    this.#flush(nowMs)
  }

  /** Completes a packet and keeps it until the flush. */
  #wait(hop: number, start: number, length: number, table: ForwardingTable): boolean {
    if (
      needsChecksum(this.#bytes, start - VIRTIO_HEADER) &&
      !completeChecksum(this.#memory, start, length)
    ) {
      this.#drops.count(Drop.badHeader)
      return false
    }
    const index = this.#waiting++
    this.#start[index] = start
    this.#length[index] = length
    this.#hop[index] = hop
    this.#class[index] = this.#outerClass(hop, start, table)
    return true
  }

  /**
   * What the outer header says of DSCP and ECN. A congestion mark on it is lost
   * where the remote does not bring it back, so that only those that do are told
   * that packets may be marked (RFC 6040 section 4.3).
   */
  #outerClass(hop: number, start: number, table: ForwardingTable): number {
    const inner = trafficClassOf(this.#bytes, start)
    const ecn = table.carriesEcn[hop] === 1 ? inner & 0x03 : 0
    return table.copyDscp ? (inner & 0xfc) | ecn : ecn
  }

  /**
   * Whether packets so long may go to the hop. The sender of one that may not be
   * fragmented and is longer than the way takes is told.
   */
  #admit(
    hop: number,
    start: number,
    length: number,
    packetLength: number,
    table: ForwardingTable,
    nowMs: number,
  ): boolean {
    const version = versionOf(this.#bytes, start)
    const mtu = this.#limits.mtuOf(hop, version)
    if (mtu === 0 || packetLength <= mtu) return true
    const mayBeCut =
      version === 4 && (readUint16(this.#bytes, start + FRAGMENT) & DONT_FRAGMENT) === 0
    if (mayBeCut || this.#limits.allowsSegments(hop, nowMs)) return true
    this.#drops.count(Drop.tooBig)
    this.#answers.write(IcmpError.tooBig, mtu, start, length, table, nowMs)
    return false
  }

  #sendSuper(
    hop: number,
    at: number,
    length: number,
    table: ForwardingTable,
    nowMs: number,
  ): void {
    const packet = this.#super
    const start = at + VIRTIO_HEADER
    const type = gsoTypeOf(this.#bytes, at)
    if (!packet.open(start, length, type, gsoSizeOf(this.#bytes, at))) {
      this.#drops.count(Drop.badHeader)
      return
    }
    const { count, headerLength } = packet
    const segment = headerLength + packet.payloadLength(0)
    if (!this.#admit(hop, start, length, segment, table, nowMs)) return
    const outerClass = this.#outerClass(hop, start, table)
    const most = this.#segmentsOf(hop, segment, nowMs)
    this.#traffic.cutPackets += 1
    let header = this.#headers
    for (let first = 0; first < count; first += most) {
      const end = Math.min(count, first + most)
      if (header + (end - first) * HEADER_ROOM > this.#headersEnd || this.#queue.isFull) {
        this.#send(nowMs, 2)
        header = this.#headers
      }
      this.#begin(hop, end - first, end - first > 1 ? segment : 0, outerClass)
      this.#note(header, headerLength)
      let bytes = 0
      for (let index = first; index < end; index++) {
        const payload = packet.payloadLength(index)
        packet.writeHeader(index, header)
        this.#queue.slice(header, headerLength)
        this.#queue.slice(packet.payloadStart(index), payload)
        header += HEADER_ROOM
        bytes += headerLength + payload
      }
      this.#bytesOf[this.#queue.count - 1] = bytes
    }
    this.#send(nowMs, 2)
  }

  /** How many datagrams of that size may go to the hop as one message. */
  #segmentsOf(hop: number, size: number, nowMs: number): number {
    if (!this.#hasSegments || !this.#limits.allowsSegments(hop, nowMs)) return 1
    return Math.max(1, Math.min(MAX_SEGMENTS, Math.floor(MAX_MESSAGE / size)))
  }

  #begin(hop: number, packets: number, segment: number, outerClass: number): void {
    const index = this.#queue.count
    const name = this.#sockaddrs + hop * SOCKADDR
    this.#queue.begin(name, this.#isIpv4, segment, outerClass)
    this.#hopOf[index] = hop
    this.#packetsOf[index] = packets
  }

  /** Where the first packet of the message begun last lies. */
  #note(start: number, length: number): void {
    this.#startOf[this.#queue.count - 1] = start
    this.#lengthOf[this.#queue.count - 1] = length
  }

  /** Sends what waits: a run of equal length to one hop is one message. */
  #flush(nowMs: number): void {
    for (let first = 0; first < this.#waiting;) {
      const end = this.#endOfRun(first, nowMs)
      const segment = end - first > 1 ? (this.#length[first] ?? 0) : 0
      this.#begin(this.#hop[first] ?? 0, end - first, segment, this.#class[first] ?? 0)
      this.#note(this.#start[first] ?? 0, this.#length[first] ?? 0)
      let bytes = 0
      for (; first < end; first++) {
        const length = this.#length[first] ?? 0
        this.#queue.slice(this.#start[first] ?? 0, length)
        bytes += length
      }
      this.#bytesOf[this.#queue.count - 1] = bytes
    }
    this.#waiting = 0
    this.#send(nowMs, 1)
  }

  /** Packets from `first` on that can be one message: to one hop, of one class and one length; a shorter one may be the last. */
  #endOfRun(first: number, nowMs: number): number {
    const hop = this.#hop[first] ?? 0
    const length = this.#length[first] ?? 0
    const most = first + this.#segmentsOf(hop, length, nowMs)
    let end = first + 1
    while (
      end < this.#waiting &&
      end < most &&
      this.#hop[end] === hop &&
      this.#class[end] === this.#class[first] &&
      (this.#length[end] ?? 0) <= length
    ) {
      end += 1
      if ((this.#length[end - 1] ?? 0) < length) break
    }
    return end
  }

  /** @param slices that each packet has in the queue. */
  #send(nowMs: number, slices: number): void {
    const traffic = this.#traffic
    for (let first = 0; first < this.#queue.count;) {
      const sent = this.#queue.send(this.#socket, first)
      traffic.sendCalls += 1
      for (let index = first; index < first + sent; index++) {
        traffic.sentPackets += this.#packetsOf[index] ?? 0
        traffic.sentBytes += this.#bytesOf[index] ?? 0
      }
      first += sent
      if (sent === 0) {
        this.#sendSingly(first, slices, this.#calls.errno(), nowMs)
        first += 1
      }
    }
    this.#queue.reset()
  }

  /** A message that the kernel does not take: one by one, unless the trouble is not the number. */
  #sendSingly(message: number, slices: number, errno: number, nowMs: number): void {
    const packets = this.#packetsOf[message] ?? 0
    const isTooLong = errno === libc.EMSGSIZE
    if (packets === 1 || !(isTooLong || errno === libc.EIO || errno === libc.EINVAL)) {
      this.#drops.count(Drop.sendFailed, packets)
      if (errno === libc.EHOSTUNREACH || errno === libc.ENETUNREACH)
        this.#answerUnreachable(message, nowMs)
      return
    }
    this.#traffic.gsoFallbacks += 1
    this.#limits.limit(this.#hopOf[message] ?? 0, isTooLong, nowMs)
    const average = (this.#bytesOf[message] ?? 0) / packets
    for (let index = 0; index < packets; index++) {
      this.#traffic.sendCalls += 1
      if (this.#queue.sendAlone(this.#socket, message, index * slices, slices) === 0) {
        this.#traffic.sentPackets += 1
        this.#traffic.sentBytes += average
      } else this.#drops.count(Drop.sendFailed)
    }
  }

  /** The host that leases the subnet cannot be reached: the sender of the message's first packet is told. */
  #answerUnreachable(message: number, nowMs: number): void {
    const table = this.#table
    if (table === undefined) return
    const start = this.#startOf[message] ?? 0
    const length = this.#lengthOf[message] ?? 0
    this.#answers.write(IcmpError.hostUnreachable, 0, start, length, table, nowMs)
  }
}
