import { DropLedger } from '../../encap/drops.js'
import type { ForwardingTable } from '../../encap/forwarding-table.js'
import type { PacketMemory } from '../../encap/packet-memory.js'
import { zeroTraffic } from '../../encap/path-control.js'
import type { PacketCalls } from '../../linux/libc.js'
import type { TunOffloads } from '../../linux/tun.js'
import { INBOUND_MEMORY, Inbound } from './inbound.js'
import { OUTBOUND_MEMORY, Outbound } from './outbound.js'

/** Bytes of packet memory that a loop needs. */
export const LOOP_MEMORY = OUTBOUND_MEMORY + INBOUND_MEMORY

export interface PacketLoopOptions {
  /** Of LOOP_MEMORY bytes, and the loop's own. */
  readonly memory: PacketMemory
  /** Descriptors. */
  readonly tun: number
  readonly socket: number
  readonly sender: number
  /** What the device hands over and takes. */
  readonly offloads: TunOffloads
  /** Whether one message can be sent as many datagrams. */
  readonly hasSegments: boolean
  readonly calls: PacketCalls
  /** The longest packet to a struct sockaddr_in or sockaddr_in6, outer header included; 0 without a route. */
  readonly routeMtu: (name: Uint8Array) => number
}

/** Moves packets between a TUN device and a UDP socket, a batch at a time, while it is permitted. */
export class PacketLoop {
  readonly traffic = zeroTraffic()
  readonly drops = new DropLedger()
  readonly #outbound: Outbound
  readonly #inbound: Inbound
  #table: ForwardingTable | undefined
  #permitUntil = 0

  constructor(options: PacketLoopOptions) {
    const { traffic, drops } = this
    const parts = { ...options, traffic, drops }
    this.#outbound = new Outbound({ ...parts, socket: options.sender, start: 0 })
    this.#inbound = new Inbound({ ...parts, start: OUTBOUND_MEMORY })
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
