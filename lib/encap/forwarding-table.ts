import { Drop } from './drops.js'

/** Which source addresses a datagram is checked for. */
export const Verify = {
  /** The outer source is an address of the remote that holds the inner source. */
  strict: 0,
  /** The inner source lies in some remote's subnet, wherever it came from. */
  inner: 1,
  /** No source check at all. */
  off: 2,
} as const

export type VerifyMode = keyof typeof Verify
export const VERIFY_MODES = Object.keys(Verify) as readonly VerifyMode[]

/** Further source addresses that one remote's record may list. */
export const MAX_SOURCES = 4

/** A remote's subnet and where its packets go. Addresses are unsigned 32-bit numbers. */
export interface NextHop {
  readonly network: number
  readonly length: number
  readonly address: number
  /** UDP port, host order. */
  readonly port: number
  /** Addresses besides `address` that the remote may send from. */
  readonly sources: readonly number[]
}

/** All that the packet path must know to forward. */
export interface ForwardingState {
  readonly network: number
  readonly networkLength: number
  /** This host's own subnet; its base is the TUN's address and the source of ICMP errors. */
  readonly subnet: number
  readonly subnetLength: number
  readonly verify: VerifyMode
  readonly hops: readonly NextHop[]
}

/** 4 Mi slots are 16 MiB: a /8 cut into /30s. */
const MAX_SLOTS = 1 << 22

/** Bytes of a struct sockaddr_in. */
export const SOCKADDR_IN = 16

function maskOf(length: number): number {
  return length === 0 ? 0 : (0xffffffff << (32 - length)) >>> 0
}

/**
 * Finds the remote of an address with one array read. All subnets of a network
 * have one length, apart from leases that outlive a change of SubnetLen, so the
 * index is cut at the finest length present: slot = (address - network) >>> shift.
 *
 * Built whole and then only read, so that a new one is published by assignment.
 */
export class ForwardingTable {
  readonly ownSubnet: number
  readonly ownMask: number
  readonly verify: number
  readonly hopCount: number
  /** struct sockaddr_in of each hop, one after the other. */
  readonly sockaddrs: Uint8Array
  readonly #network: number
  readonly #mask: number
  readonly #shift: number
  /** Hop number plus one; 0 where no remote is. */
  readonly #slots: Uint32Array
  readonly #addresses: Uint32Array
  readonly #sources: Uint32Array

  constructor(state: ForwardingState) {
    const { network, networkLength, hops } = state
    this.ownSubnet = state.subnet
    this.ownMask = maskOf(state.subnetLength)
    this.verify = Verify[state.verify]
    this.hopCount = hops.length
    this.#network = network
    this.#mask = maskOf(networkLength)

    const finest = hops.reduce(
      (length, hop) => Math.max(length, hop.length),
      networkLength,
    )
    const slotCount = 2 ** (finest - networkLength)
    if (slotCount > MAX_SLOTS) {
      throw new RangeError(`a /${networkLength} in /${finest}s needs ${slotCount} slots`)
    }
    this.#shift = 32 - finest
    this.#slots = new Uint32Array(slotCount)
    this.#addresses = Uint32Array.from(hops, hop => hop.address)
    this.#sources = new Uint32Array(hops.length * MAX_SOURCES)
    this.sockaddrs = new Uint8Array(hops.length * SOCKADDR_IN)
    // Coarse subnets first, so that where two overlap the finer one stands.
    const order = hops.map((_, index) => index)
    order.sort((a, b) => hops[a]!.length - hops[b]!.length)
    for (const index of order) this.#place(hops[index]!, index, finest)
  }

  #place(hop: NextHop, index: number, finest: number): void {
    if (hop.length < 1 || (hop.network & this.#mask) >>> 0 !== this.#network) {
      throw new RangeError(`a next hop lies outside the network`)
    }
    if ((hop.network & maskOf(hop.length)) >>> 0 !== hop.network) {
      throw new RangeError(`a next hop's subnet has host bits`)
    }
    const width = 2 ** (finest - hop.length)
    // With a shift of 32 (one slot for everything) JS would shift by nothing.
    const first = this.#shift === 32 ? 0 : (hop.network - this.#network) >>> this.#shift
    this.#slots.fill(index + 1, first, first + width)
    this.#sources.set(hop.sources.slice(0, MAX_SOURCES), index * MAX_SOURCES)
    writeSockaddrIn(this.sockaddrs, index * SOCKADDR_IN, hop.address, hop.port)
  }

  /** The hop whose subnet holds the address, or -Drop.noRoute. Allocates nothing. */
  lookup(address: number): number {
    if ((address & this.#mask) >>> 0 !== this.#network) return -Drop.noRoute
    const hop =
      this.#slots[this.#shift === 32 ? 0 : (address - this.#network) >>> this.#shift]!
    return hop === 0 ? -Drop.noRoute : hop - 1
  }

  /** True when a datagram from `outer` may carry packets of this hop's subnet. */
  maySendFrom(hop: number, outer: number): boolean {
    if (this.#addresses[hop] === outer) return true
    if (outer === 0) return false
    const start = hop * MAX_SOURCES
    for (let index = start; index < start + MAX_SOURCES; index++) {
      if (this.#sources[index] === outer) return true
    }
    return false
  }

  /** Whether an address is of the network, but not of our subnet; never when sources are not verified. */
  isForeign(address: number): boolean {
    return (
      this.verify !== Verify.off &&
      (address & this.#mask) >>> 0 === this.#network &&
      (address & this.ownMask) >>> 0 !== this.ownSubnet
    )
  }

  /** True when any remote may send from `outer`. Linear: only for explaining a drop. */
  isKnownSender(outer: number): boolean {
    return (
      outer !== 0 && (this.#addresses.includes(outer) || this.#sources.includes(outer))
    )
  }
}

/** struct sockaddr_in: family in host order (little endian on all we run on), port and address in network order. */
export function writeSockaddrIn(
  bytes: Uint8Array,
  start: number,
  address: number,
  port: number,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, SOCKADDR_IN)
  view.setUint16(0, 2, true) // AF_INET
  view.setUint16(2, port)
  view.setUint32(4, address)
}
