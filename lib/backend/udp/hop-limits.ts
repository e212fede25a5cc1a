import { type ForwardingTable, SOCKADDR } from '../../encap/forwarding-table.js'
import { equalBytes } from '../../encap/bytes.js'
import { IPV4_HEADER, IPV6_HEADER } from '../../encap/ip.js'
import { UDP_HEADER } from '../../encap/transport.js'

/** After so long it is tried again whether a way still has its limits. */
const RETRY_MS = 60_000

/**
 * No sender is told less: every IPv4 host takes packets of 576 bytes (RFC 1122),
 * every IPv6 link those of 1280 (RFC 8200). Longer packets go in pieces then, so
 * that a forged ICMP error to this host cannot slow containers down further.
 */
const LEAST_MTU4 = 576
const LEAST_MTU6 = 1280

const AF_INET = 2

/**
 * What the way to a next hop cannot do, as failed sends have shown: no
 * UDP_SEGMENT, because the route's device cannot make checksums or the segments
 * are longer than its MTU.
 */
export class HopLimits {
  readonly #routeMtu: (name: Uint8Array) => number
  #table: ForwardingTable | undefined
  /** Clock time until which a hop is limited; 0 for one that is not. */
  #until = new Float64Array(0)
  /** The longest inner packet that need not be cut on the way; 0 when unknown. */
  #mtu = new Uint16Array(0)
  #limited = 0

  /** @param routeMtu the longest packet to a struct sockaddr_in or sockaddr_in6. */
  constructor(routeMtu: (name: Uint8Array) => number) {
    this.#routeMtu = routeMtu
  }

  /** A new table: hops that stay keep their limits. */
  useTable(table: ForwardingTable): void {
    const before = { table: this.#table, until: this.#until, mtu: this.#mtu }
    this.#table = table
    this.#until = new Float64Array(table.hopCount)
    this.#mtu = new Uint16Array(table.hopCount)
    if (before.table === undefined || this.#limited === 0) return
    this.#limited = 0
    for (let old = 0; old < before.until.length; old++) {
      const until = before.until[old] ?? 0
      if (until === 0) continue
      for (let hop = 0; hop < table.hopCount; hop++) {
        if (!isSameHop(before.table, old, table, hop)) continue
        this.#until[hop] = until
        this.#mtu[hop] = before.mtu[old] ?? 0
        this.#limited += 1
      }
    }
  }

  /** Whether many datagrams may be sent to the hop as one message. */
  allowsSegments(hop: number, nowMs: number): boolean {
    const until = this.#until[hop] ?? 0
    if (until === 0) return true
    if (nowMs < until) return false
    this.#until[hop] = 0
    this.#mtu[hop] = 0
    this.#limited -= 1
    return true
  }

  /** The longest inner packet that the way takes whole; 0 when there is no limit known. */
  mtuOf(hop: number, version: number): number {
    const mtu = this.#mtu[hop] ?? 0
    return mtu === 0 ? 0 : Math.max(mtu, version === 4 ? LEAST_MTU4 : LEAST_MTU6)
  }

  /** A message of several datagrams could not be sent. */
  limit(hop: number, isTooLong: boolean, nowMs: number): void {
    const table = this.#table
    if (table === undefined) return
    if (this.#until[hop] === 0) this.#limited += 1
    this.#until[hop] = nowMs + RETRY_MS
    if (!isTooLong) return
    const name = table.sockaddrs.subarray(hop * SOCKADDR, (hop + 1) * SOCKADDR)
    const overhead = (name[0] === AF_INET ? IPV4_HEADER : IPV6_HEADER) + UDP_HEADER
    this.#mtu[hop] = Math.max(0, Math.min(0xffff, this.#routeMtu(name) - overhead))
  }
}

function isSameHop(
  a: ForwardingTable,
  hop: number,
  b: ForwardingTable,
  other: number,
): boolean {
  return equalBytes(a.sockaddrs, hop * SOCKADDR, b.sockaddrs, other * SOCKADDR, SOCKADDR)
}
