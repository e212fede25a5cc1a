import {
  ADDRESS_BITS,
  FAMILIES,
  type Family,
  type Prefix,
  formatAddress,
  networkMask,
} from '../subnet/prefix.js'
import { type Subnet, prefixesOf, subnetPrefix } from '../subnet/subnet-key.js'
import type { Holder } from '../subnet/subnet-record.js'

/** What was leased, and since which revision of the registry. */
export interface Claim {
  readonly subnet: Subnet
  readonly holder: Holder
  readonly since: bigint
}

/**
 * The claims whose subnet overlaps that of an earlier one of another host. No allocator
 * makes such a record: who does takes a part of another host's addresses, to which its longer
 * prefix would lead. Costs a sort; and more only for those that do overlap.
 */
export function findLatecomers<C extends Claim>(claims: readonly C[]): ReadonlySet<C> {
  const overlapping = findOverlapping(claims)
  const taken = new TakenRanges(
    [...overlapping].flatMap(({ subnet }) => prefixesOf(subnet)),
  )
  const latecomers = new Set<C>()
  const inOrder = [...overlapping].sort((a, b) => Number(a.since - b.since))
  for (const claim of inOrder) {
    const prefixes = prefixesOf(claim.subnet)
    const who = nameOfHolder(claim.holder)
    if (prefixes.some(prefix => taken.isOfAnother(prefix, who))) latecomers.add(claim)
    else for (const prefix of prefixes) taken.add(prefix, who)
  }
  return latecomers
}

/** Subnets of different lengths or families can overlap; others do not, since their keys differ. */
export function shapeOf(subnet: Subnet): string {
  return prefixesOf(subnet)
    .map(({ family, length }) => `${family}/${length}`)
    .join('&')
}

/** A host that gets a second family has both its records for a while. */
export function nameOfHolder({ publicIp, publicIpv6 }: Holder): string {
  const address = publicIp ?? publicIpv6
  return address === undefined ? '' : formatAddress(address)
}

function findOverlapping<C extends Claim>(claims: readonly C[]): Set<C> {
  const found = new Set<C>()
  for (const family of FAMILIES) {
    const ranges = claims.flatMap(claim => {
      const prefix = subnetPrefix(claim.subnet, family)
      return prefix === undefined ? [] : { claim, prefix }
    })
    // The wider comes first, so that what lies in it follows.
    ranges.sort(
      (a, b) =>
        Number(a.prefix.network > b.prefix.network) -
          Number(a.prefix.network < b.prefix.network) ||
        a.prefix.length - b.prefix.length,
    )
    let around: { claim: C; last: bigint } | undefined
    for (const { claim, prefix } of ranges) {
      if (around !== undefined && prefix.network <= around.last)
        found.add(claim).add(around.claim)
      else around = { claim, last: lastOf(prefix) }
    }
  }
  return found
}

function lastOf({ family, network, length }: Prefix): bigint {
  return network + (1n << BigInt(ADDRESS_BITS[family] - length)) - 1n
}

/** No name of a holder. */
const SEVERAL = '*'

/** Ranges, asked for overlaps in as many steps as there are different lengths. */
class TakenRanges {
  readonly #lengths = new Map<Family, Set<number>>([
    [4, new Set()],
    [6, new Set()],
  ])
  /** By whom. */
  readonly #taken = new Map<string, string>()
  /** Those of a length that occurs which hold a taken one; by whom that is. */
  readonly #around = new Map<string, string>()

  /** @param all that will ever be asked about or added. */
  constructor(all: readonly Prefix[]) {
    for (const { family, length } of all) this.#lengths.get(family)?.add(length)
  }

  add(prefix: Prefix, who: string): void {
    this.#taken.set(nameOf(prefix), who)
    for (const outer of this.#wider(prefix)) {
      const name = nameOf(outer)
      this.#around.set(name, (this.#around.get(name) ?? who) === who ? who : SEVERAL)
    }
  }

  isOfAnother(prefix: Prefix, who: string): boolean {
    const isAnother = (holder: string | undefined): boolean =>
      holder !== undefined && holder !== who
    return (
      isAnother(this.#around.get(nameOf(prefix))) ||
      this.#wider(prefix).some(outer => isAnother(this.#taken.get(nameOf(outer))))
    )
  }

  /** The ranges of lengths that occur which hold a prefix, itself among them. */
  #wider({ family, network, length }: Prefix): Prefix[] {
    return [...(this.#lengths.get(family) ?? [])]
      .filter(shorter => shorter <= length)
      .map(shorter => ({
        family,
        network: network & networkMask(family, shorter),
        length: shorter,
      }))
  }
}

function nameOf({ family, network, length }: Prefix): string {
  return `${family}:${network}/${length}`
}
