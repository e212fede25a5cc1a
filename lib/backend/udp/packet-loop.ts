import { DropLedger } from '../../encap/drops.js'
import type { ForwardingTable } from '../../encap/forwarding-table.js'
import { allocatePackets } from '../../encap/packet-memory.js'
import { zeroTraffic } from '../../encap/path-control.js'
import { enableOffloads } from '../../linux/tun.js'
import { enableUdpGro, hasUdpSegment } from '../../linux/udp-socket.js'
import { INBOUND_MEMORY, Inbound } from './inbound.js'
import { OUTBOUND_MEMORY, Outbound } from './outbound.js'

/** Moves packets between a TUN device and a UDP socket, a batch at a time, while it is permitted. */
export class PacketLoop {
  readonly traffic = zeroTraffic()
  readonly drops = new DropLedger()
  readonly #outbound: Outbound
  readonly #inbound: Inbound
  #table: ForwardingTable | undefined
  #permitUntil = 0

  constructor(tun: number, socket: number) {
    const memory = allocatePackets(OUTBOUND_MEMORY + INBOUND_MEMORY)
    const { traffic, drops } = this
    const parts = { memory, tun, socket, traffic, drops }
    const offloads = enableOffloads(tun)
    enableUdpGro(socket)
    const hasSegments = hasUdpSegment(socket)
    this.#outbound = new Outbound({ ...parts, start: 0, hasSegments })
    this.#inbound = new Inbound({ ...parts, start: OUTBOUND_MEMORY, offloads })
  }

  /** Puts a new table in force between two batches. */
  useTable(table: ForwardingTable): void {
    this.#table = table
    this.#outbound.useTable(table)
  }

  /** Whether it has been told where packets go. */
  get isReady(): boolean {
    return this.#table !== undefined
  }

  /** @param untilMs CLOCK_BOOTTIME until which packets may be forwarded. */
  permit(untilMs: number): void {
    this.#permitUntil = untilMs
  }

  get permitUntil(): number {
    return this.#permitUntil
  }

  permitted(nowMs: number): boolean {
    return nowMs < this.#permitUntil
  }

  fromTun(nowMs: number): void {
    this.#outbound.run(nowMs, this.permitted(nowMs))
  }

  fromUnderlay(nowMs: number): void {
    this.#inbound.run(this.permitted(nowMs) ? this.#table : undefined)
  }
}
