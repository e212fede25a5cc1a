import { Coalescer } from '../../encap/coalescer.js'
import { type DropLedger, Drop } from '../../encap/drops.js'
import { carryCongestion } from '../../encap/ecn.js'
import { checkInbound } from '../../encap/forward.js'
import type { ForwardingTable } from '../../encap/forwarding-table.js'
import { IPV4_HEADER, IPV6_HEADER, SOURCE, SOURCE6, versionOf } from '../../encap/ip.js'
import type { PacketMemory } from '../../encap/packet-memory.js'
import type { Traffic } from '../../encap/path-control.js'
import { MAX_HEADERS } from '../../encap/transport.js'
import { VIRTIO_HEADER, writePlainVirtio } from '../../encap/virtio.js'
import { ReceiveQueue, SliceVector } from '../../linux/datagrams.js'
import type { PacketCalls } from '../../linux/libc.js'
import type { TunOffloads } from '../../linux/tun.js'

/** Messages taken with one call while they are short; long ones fill the cache. */
const MESSAGES = 16
const LONG_MESSAGES = 2
const LONG = 16_384

/** The longest UDP payload, and a message of several datagrams is no longer. */
const MESSAGE = 65_536

/** Packets between two writes to the device; writev(2) takes 1024 slices. */
const PACKETS = 1000

/** Bytes of packet memory that an Inbound needs. */
export const INBOUND_MEMORY = MESSAGES * MESSAGE + VIRTIO_HEADER + MAX_HEADERS + 64

const CONGESTION_EXPERIENCED = 3

export interface InboundOptions {
  readonly memory: PacketMemory
  /** Where its INBOUND_MEMORY bytes begin. */
  readonly start: number
  readonly tun: number
  readonly socket: number
  readonly offloads: TunOffloads
  readonly calls: PacketCalls
  readonly traffic: Traffic
  readonly drops: DropLedger
}

/**
 * From the underlay to the TUN device.
 *
 *   recvmmsg ─► each datagram: checkInbound ─► Coalescer ─► each run: writev
 */
export class Inbound {
  readonly #bytes: Uint8Array
  readonly #tun: number
  readonly #socket: number
  readonly #traffic: Traffic
  readonly #drops: DropLedger
  readonly #receive: ReceiveQueue
  readonly #coalescer: Coalescer
  readonly #slices: SliceVector
  /** Where a virtio header and the headers of a run are written. */
  readonly #header: number
  #count = MESSAGES

  constructor(options: InboundOptions) {
    const { memory, start, calls } = options
    this.#bytes = memory.bytes
    this.#tun = options.tun
    this.#socket = options.socket
    this.#traffic = options.traffic
    this.#drops = options.drops
    this.#receive = new ReceiveQueue(memory.bytes, MESSAGES, start, MESSAGE, calls)
    this.#coalescer = new Coalescer(memory, PACKETS, options.offloads)
    this.#slices = new SliceVector(memory.bytes, PACKETS + 1, calls)
    this.#header = start + MESSAGES * MESSAGE
  }

  /** Takes what has arrived, up to a batch, and hands the good packets to the kernel. */
  run(table: ForwardingTable | undefined): void {
    const receive = this.#receive
    const count = receive.receive(this.#socket, this.#count)
    if (count === 0) return
    this.#traffic.receiveCalls += 1
    this.#traffic.socketDrops = receive.dropped
    let bytes = 0
    for (let index = 0; index < count; index++) {
      const length = receive.lengthOf(index)
      bytes += length
      this.#take(index, length, table)
    }
    this.#flush()
    this.#count = bytes > count * LONG ? LONG_MESSAGES : MESSAGES
  }

  /** One message: a datagram, or several of one length from one sender. */
  #take(index: number, length: number, table: ForwardingTable | undefined): void {
    const receive = this.#receive
    const start = receive.startOf(index)
    if (length <= 0) {
      const reason = length < 0 ? Drop.truncated : Drop.tooShort
      this.#blame(table === undefined ? Drop.noPermit : reason, index, start, 0)
      return
    }
    const segment = receive.segmentSizeOf(index)
    const step = segment > 0 ? segment : length
    for (let at = 0; at < length; at += step) {
      const size = Math.min(step, length - at)
      if (table === undefined) this.#drops.count(Drop.noPermit)
      else this.#deliver(index, start + at, size, table)
    }
  }

  #deliver(index: number, start: number, length: number, table: ForwardingTable): void {
    const receive = this.#receive
    const verdict = checkInbound(
      this.#bytes,
      start,
      length,
      receive.names,
      receive.sourceStart(index),
      receive.sourceLength(index),
      table,
    )
    if (verdict < 0) {
      this.#blame(-verdict, index, start, length)
      return
    }
    const outerEcn = receive.trafficClassOf(index) & 0x03
    if (outerEcn === CONGESTION_EXPERIENCED && !carryCongestion(this.#bytes, start)) {
      this.#drops.count(Drop.congestion)
      return
    }
    if (this.#coalescer.isFull) this.#flush()
    this.#coalescer.add(start, length)
    this.#traffic.receivedPackets += 1
    this.#traffic.receivedBytes += length
  }

  #blame(reason: number, index: number, start: number, length: number): void {
    const receive = this.#receive
    const outer = receive.sourceStart(index)
    const outerLength = receive.sourceLength(index)
    const bytes = this.#bytes
    const version = length === 0 ? 0 : versionOf(bytes, start)
    const isIpv4 = version === 4 && length >= IPV4_HEADER
    const isIpv6 = version === 6 && length >= IPV6_HEADER
    const innerLength = isIpv4 ? 4 : isIpv6 ? 16 : 0
    const inner = start + (isIpv4 ? SOURCE : SOURCE6)
    this.#drops.blame(
      reason,
      receive.names,
      outer,
      outerLength,
      bytes,
      inner,
      innerLength,
    )
  }

  #flush(): void {
    const coalescer = this.#coalescer
    for (let run = 0; run < coalescer.runs; run++) {
      if (coalescer.packetsIn(run) > 1) this.#writeRun(run)
      else this.#writePacket(coalescer.firstOf(run))
    }
    coalescer.reset()
  }

  #writeRun(run: number): void {
    const coalescer = this.#coalescer
    const slices = this.#slices
    const headerLength = coalescer.headerLengthOf(run)
    slices.count = 0
    const size = coalescer.writeHeader(run, this.#header)
    slices.add(this.#header, size)
    let payload = 0
    for (let packet = coalescer.firstOf(run); packet >= 0;) {
      const length = coalescer.lengthOf(packet) - headerLength
      slices.add(coalescer.startOf(packet) + headerLength, length)
      payload += length
      packet = coalescer.nextOf(packet)
    }
    if (slices.write(this.#tun) === size + payload) {
      this.#traffic.tunWrites += 1
      this.#traffic.joinedPackets += coalescer.packetsIn(run)
      return
    }
    // A kernel that does not take it so takes the packets, which are as they were.
    for (let packet = coalescer.firstOf(run); packet >= 0;) {
      this.#writePacket(packet)
      packet = coalescer.nextOf(packet)
    }
  }

  #writePacket(packet: number): void {
    const start = this.#coalescer.startOf(packet)
    const length = this.#coalescer.lengthOf(packet)
    const slices = this.#slices
    writePlainVirtio(this.#bytes, this.#header)
    slices.count = 0
    slices.add(this.#header, VIRTIO_HEADER)
    slices.add(start, length)
    if (slices.write(this.#tun) === VIRTIO_HEADER + length) this.#traffic.tunWrites += 1
    else this.#drops.count(Drop.writeFailed)
  }
}
