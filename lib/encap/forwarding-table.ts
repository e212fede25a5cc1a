import { equalBytes } from './bytes.js'
import { type Range, RangeMatcher, SubnetIndex } from './subnet-index.js'

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

/** A remote's subnets and where its packets go. Addresses are 4 or 16 bytes. */
export interface NextHop {
  /** One of each family that it has. */
  readonly subnets: readonly Range[]
  readonly address: Uint8Array
  /** UDP port, host order. */
  readonly port: number
  /** Addresses besides `address` that the remote may send from. */
  readonly sources: readonly Uint8Array[]
  /** It brings a congestion mark on the outer header back into the packet (RFC 6040), as stock flannel does not. */
  readonly carriesEcn: boolean
}

/** A family of the overlay. */
export interface ForwardingFamily {
  readonly network: Range
  /** This host's own subnet; its base is the TUN's address and the source of ICMP errors. */
  readonly subnet: Range
}

/** All that the packet path must know to forward. */
export interface ForwardingState {
  readonly families: readonly ForwardingFamily[]
  readonly verify: VerifyMode
  /** Copy the DSCP of packets to the outer header. */
  readonly copyDscp: boolean
  readonly hops: readonly NextHop[]
}

/** Bytes of a struct sockaddr_in6; a sockaddr_in takes the first 16 of them. */
export const SOCKADDR = 28

/** One family's part of the table. */
export class FamilyTable {
  readonly own: RangeMatcher
  readonly hops: SubnetIndex
  /** The TUN's address. */
  readonly address: Uint8Array

  constructor({ network, subnet }: ForwardingFamily, hops: readonly NextHop[]) {
    const size = network.address.length
    this.own = new RangeMatcher(subnet)
    this.address = subnet.address
    this.hops = new SubnetIndex(
      network,
      hops.flatMap(({ subnets }, number) =>
        subnets
          .filter(({ address }) => address.length === size)
          .map(range => ({ range, number })),
      ),
    )
  }
}

/**
 * Where packets go, and where they may come from. Built whole and then only
 * read, so that a new one is published by assignment.
 */
export class ForwardingTable {
  readonly verify: number
  readonly copyDscp: boolean
  readonly hopCount: number
  /** struct sockaddr_in or sockaddr_in6 of each hop, SOCKADDR bytes apart. */
  readonly sockaddrs: Uint8Array
  readonly carriesEcn: Uint8Array
  readonly #ipv4: FamilyTable | undefined
  readonly #ipv6: FamilyTable | undefined
  /** Each hop's own address and then its sources, 16 bytes each, zero-filled. */
  readonly #senders: Uint8Array

  constructor({ families, verify, copyDscp, hops }: ForwardingState) {
    const ofSize = (size: number): FamilyTable | undefined => {
      const family = families.find(({ network }) => network.address.length === size)
      return family && new FamilyTable(family, hops)
    }
    this.verify = Verify[verify]
    this.copyDscp = copyDscp
    this.hopCount = hops.length
    this.#ipv4 = ofSize(4)
    this.#ipv6 = ofSize(16)
    this.sockaddrs = new Uint8Array(hops.length * SOCKADDR)
    this.carriesEcn = Uint8Array.from(hops, hop => (hop.carriesEcn ? 1 : 0))
    this.#senders = new Uint8Array(hops.length * SENDERS * SENDER)
    for (const [index, { address, port, sources }] of hops.entries()) {
      writeSockaddr(this.sockaddrs, index * SOCKADDR, address, port)
      const senders = [address, ...sources.slice(0, MAX_SOURCES)]
      for (const [slot, sender] of senders.entries())
        this.#senders.set(sender, (index * SENDERS + slot) * SENDER)
    }
  }

  /** @param version 4 or 6. */
  family(version: number): FamilyTable | undefined {
    return version === 4 ? this.#ipv4 : version === 6 ? this.#ipv6 : undefined
  }

  /**
   * True when a datagram from an outer address may carry packets of this hop's
   * subnets.
   *
   * @param length 4 or 16 bytes at `start`.
   */
  maySendFrom(hop: number, bytes: Uint8Array, start: number, length: number): boolean {
    const first = hop * SENDERS
    for (let sender = first; sender < first + SENDERS; sender++) {
      if (!equalBytes(this.#senders, sender * SENDER, bytes, start, length)) continue
      // The rest of an empty slot is zero, and so is the unspecified address: nobody sends from it.
      return !isZero(bytes, start, length)
    }
    return false
  }

  /** True when any remote may send from the address. Linear: only for explaining a drop. */
  isKnownSender(bytes: Uint8Array, start: number, length: number): boolean {
    for (let hop = 0; hop < this.hopCount; hop++)
      if (this.maySendFrom(hop, bytes, start, length)) return true
    return false
  }
}

const SENDER = 16
const SENDERS = 1 + MAX_SOURCES

function isZero(bytes: Uint8Array, start: number, length: number): boolean {
  for (let index = 0; index < length; index++)
    if (bytes[start + index] !== 0) return false
  return true
}

/** struct sockaddr_in or sockaddr_in6: family in host order (little endian on all we run on), port and address in network order. */
export function writeSockaddr(
  bytes: Uint8Array,
  start: number,
  address: Uint8Array,
  port: number,
): void {
  const isIpv4 = address.length === 4
  bytes[start] = isIpv4 ? 2 : 10 // AF_INET, AF_INET6
  bytes[start + 1] = 0
  bytes[start + 2] = port >>> 8
  bytes[start + 3] = port
  bytes.set(address, start + (isIpv4 ? 4 : 8))
}
