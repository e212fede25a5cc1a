import { Drop, DropLedger } from '../../encap/drops.js'
import { SOCKADDR_IN, type ForwardingTable } from '../../encap/forwarding-table.js'
import { checkInbound, routeOutbound } from '../../encap/forward.js'
import {
  DESTINATION_UNREACHABLE,
  MAX_ICMP_ERROR,
  NET_UNREACHABLE,
  TokenBucket,
  mayAnswerWithError,
  writeIcmpError,
} from '../../encap/icmp.js'
import { IPV4_HEADER, SOURCE, readUint32 } from '../../encap/ipv4.js'
import { zeroTraffic } from '../../encap/path-control.js'
import { ReceiveVector, SendVector } from '../../linux/datagrams.js'
import * as libc from '../../linux/libc.js'

/** Packets moved in one direction before the other and the control socket get their turn. */
const BATCH = 64

/** ICMP errors a second, and at once. Linux's own limit is of this order (icmp_msgs_per_sec 1000, burst 50). */
const ICMP_RATE = 1000
const ICMP_BURST = 50

/**
 * Moves packets between a TUN device and a UDP socket, a batch at a time.
 *
 *   TUN ─ read ─► routeOutbound ─► SendVector ─ sendmmsg ─► underlay
 *   TUN ◄─ write ─ checkInbound ◄─ ReceiveVector ◄─ recvmmsg ─ underlay
 *
 * A packet stays in the slot that it was read into; nothing is copied or
 * allocated per packet.
 */
export class PacketLoop {
  readonly traffic = zeroTraffic()
  readonly drops = new DropLedger()

  readonly #tun: number
  readonly #socket: number
  readonly #slotSize: number
  readonly #outbound: Buffer
  readonly #outboundAddress: number
  readonly #send = new SendVector(BATCH)
  readonly #receive: ReceiveVector
  readonly #icmp = Buffer.alloc(MAX_ICMP_ERROR)
  readonly #icmpBucket = new TokenBucket(ICMP_RATE, ICMP_BURST)
  #table: ForwardingTable | undefined
  #sockaddrs = 0
  #permitUntil = 0

  /** @param slotSize bytes of the largest packet on either side. */
  constructor(tun: number, socket: number, slotSize: number) {
    this.#tun = tun
    this.#socket = socket
    this.#slotSize = slotSize
    this.#outbound = Buffer.alloc(BATCH * slotSize)
    this.#outboundAddress = libc.addressOf(this.#outbound)
    this.#receive = new ReceiveVector(BATCH, slotSize)
  }

  /** Puts a new table in force between two batches. */
  useTable(table: ForwardingTable): void {
    this.#table = table
    this.#sockaddrs = table.hopCount === 0 ? 0 : libc.addressOf(table.sockaddrs)
  }

  /** @param untilMs CLOCK_BOOTTIME until which packets may be forwarded. */
  permit(untilMs: number): void {
    this.#permitUntil = untilMs
  }

  permitted(nowMs: number): boolean {
    return nowMs < this.#permitUntil
  }

  /** Takes up to a batch of packets from the TUN and sends them to their remotes. */
  fromTun(nowMs: number): void {
    const { traffic, drops } = this
    const table = this.permitted(nowMs) ? this.#table : undefined
    let ready = 0
    let bytes = 0
    for (let reads = 0; reads < BATCH; reads++) {
      const start = ready * this.#slotSize
      const address = this.#outboundAddress + start
      const length = libc.read(this.#tun, address, this.#slotSize)
      if (length <= 0) break
      traffic.tunReads += 1
      if (table === undefined) {
        drops.count(Drop.noPermit)
        continue
      }
      const hop = routeOutbound(this.#outbound, start, length, table)
      if (hop >= 0) {
        this.#send.set(ready, this.#sockaddrs + hop * SOCKADDR_IN, address, length)
        ready += 1
        bytes += length
      } else {
        drops.count(-hop)
        if (hop === -Drop.noRoute) this.#answerUnreachable(start, length, table, nowMs)
      }
    }
    if (ready > 0) this.#flush(ready, bytes)
  }

  #flush(ready: number, bytes: number): void {
    const { traffic } = this
    let failed = 0
    for (let first = 0; first < ready;) {
      first += this.#send.send(this.#socket, first, ready)
      traffic.sendCalls += 1
      if (first < ready) {
        // The kernel reports only the first failure of a batch: skip that one and go on.
        first += 1
        failed += 1
      }
    }
    this.drops.count(Drop.sendFailed, failed)
    traffic.sentPackets += ready - failed
    traffic.sentBytes += bytes
  }

  /** Tells the sender that no host holds the destination; the container sees it as from this host. */
  #answerUnreachable(
    start: number,
    length: number,
    table: ForwardingTable,
    nowMs: number,
  ): void {
    if (!mayAnswerWithError(this.#outbound, start, length)) return
    if (!this.#icmpBucket.take(nowMs)) return
    const size = writeIcmpError(
      this.#icmp,
      table.ownSubnet,
      DESTINATION_UNREACHABLE,
      NET_UNREACHABLE,
      this.#outbound,
      start,
      length,
    )
    if (libc.write(this.#tun, this.#icmp, size) === size) this.traffic.icmpErrors += 1
  }

  /** Takes up to a batch of datagrams from the socket and hands the good ones to the kernel. */
  fromUnderlay(nowMs: number): void {
    const { traffic } = this
    const table = this.permitted(nowMs) ? this.#table : undefined
    const count = this.#receive.receive(this.#socket)
    if (count === 0) return
    traffic.receiveCalls += 1
    for (let index = 0; index < count; index++) {
      if (table === undefined) this.drops.count(Drop.noPermit)
      else this.#deliver(index, table)
    }
  }

  #deliver(index: number, table: ForwardingTable): void {
    const { slab, slabAddress, slotSize } = this.#receive
    const start = index * slotSize
    const length = this.#receive.length(index)
    const outer = this.#receive.source(index)
    const verdict =
      length < 0 ? -Drop.truncated : checkInbound(slab, start, length, outer, table)
    if (verdict < 0) {
      const inner = length < IPV4_HEADER ? 0 : readUint32(slab, start + SOURCE)
      this.drops.blame(-verdict, outer, inner)
      return
    }
    if (libc.write(this.#tun, slabAddress + start, length) !== length) {
      this.drops.count(Drop.writeFailed)
      return
    }
    this.traffic.tunWrites += 1
    this.traffic.receivedPackets += 1
    this.traffic.receivedBytes += length
  }
}
