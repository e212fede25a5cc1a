import {
  type FamilyConfig,
  LONGEST_SUBNET,
  type NetworkConfig,
} from '../subnet/network-config.js'
import { containsPrefix, overlaps } from '../subnet/prefix.js'
import { type Subnet, formatSubnet, prefixesOf } from '../subnet/subnet-key.js'
import type { SubnetRecord } from '../subnet/subnet-record.js'
import type { Remote } from './backend.js'
import { type Claim, findLatecomers, nameOfHolder, shapeOf } from './first-come.js'

export interface RemoteSelection {
  readonly remotes: readonly Remote[]
  /** Records that cannot be used, each with the reason for the operator. */
  readonly rejected: readonly { readonly key: string; readonly why: string }[]
}

/**
 * The remotes among the subnet records: everybody's but ours, if they are there,
 * speak our backend and their subnet may be routed. What a record claims is not
 * trusted: one outside the network, over our own subnet or over that of a host
 * that was there before changes nothing here.
 *
 * A record is judged once. It is the same remote each time it is selected, so
 * that of ten thousand only those need a look that have changed.
 */
export class RemoteSelector {
  readonly #own: { readonly key: string; readonly subnet: Subnet }
  readonly #config: NetworkConfig
  readonly #leaseType: string
  /** A remote, why it is none, or undefined for what is nobody's business. */
  readonly #verdicts = new WeakMap<SubnetRecord, Accepted | string | undefined>()
  /** Since when whoever holds a key now has held it. A record that was lost and put back is as old as before. */
  readonly #since = new Map<string, { readonly who: string; readonly since: bigint }>()

  constructor(
    own: { readonly key: string; readonly subnet: Subnet },
    config: NetworkConfig,
    leaseType: string,
  ) {
    this.#own = own
    this.#config = config
    this.#leaseType = leaseType
  }

  select(records: readonly SubnetRecord[]): RemoteSelection {
    const accepted: Accepted[] = []
    const rejected: { key: string; why: string }[] = []
    const shapes = new Set<string>()
    for (const record of records) {
      const verdict = this.#judge(record)
      if (typeof verdict === 'object') {
        accepted.push(verdict)
        shapes.add(verdict.shape)
      } else if (verdict !== undefined) rejected.push({ key: record.key, why: verdict })
    }
    const latecomers = shapes.size > 1 ? findLatecomers(accepted) : new Set<Accepted>()
    for (const { key, subnet } of latecomers) {
      const why = `subnet ${formatSubnet(subnet)} overlaps that of another host, which had it before`
      rejected.push({ key, why })
    }
    const remotes = accepted.flatMap(each => (latecomers.has(each) ? [] : each.remote))
    return { remotes, rejected }
  }

  #judge(record: SubnetRecord): Accepted | string | undefined {
    if (this.#verdicts.has(record)) return this.#verdicts.get(record)
    const { key, holder } = record
    const isThere = holder.publicIp !== undefined || holder.publicIpv6 !== undefined
    const verdict =
      key === this.#own.key || !isThere
        ? undefined
        : (reject(record, this.#own.subnet, this.#config, this.#leaseType) ??
          this.#accept(record))
    this.#verdicts.set(record, verdict)
    return verdict
  }

  #accept({ key, subnet, holder, createRevision, modRevision }: SubnetRecord): Accepted {
    const who = nameOfHolder(holder)
    const before = this.#since.get(key)
    const isBack = before?.who === who && before.since < createRevision
    const since = isBack ? before.since : createRevision
    this.#since.set(key, { who, since })
    const remote = { subnet, holder, modRevision }
    return { key, subnet, holder, since, shape: shapeOf(subnet), remote }
  }
}

/** A record that may be a remote. */
interface Accepted extends Claim {
  readonly key: string
  readonly shape: string
  readonly remote: Remote
}

function reject(
  { subnet, holder }: SubnetRecord,
  own: Subnet,
  config: NetworkConfig,
  leaseType: string,
): string | undefined {
  const name = formatSubnet(subnet)
  if (!prefixesOf(subnet).every(prefix => config.families.some(contains(prefix)))) {
    return `subnet ${name} lies outside the network`
  }
  // No SubnetLen can be so long; the packet path has no room for a network cut that fine.
  if (prefixesOf(subnet).some(({ family, length }) => length > LONGEST_SUBNET[family])) {
    return `subnet ${name} is too small`
  }
  if (
    prefixesOf(subnet).some(prefix =>
      prefixesOf(own).some(mine => overlaps(mine, prefix)),
    )
  ) {
    return `subnet ${name} overlaps ours`
  }
  if (holder.backendType !== leaseType) {
    return `its backend is ${holder.backendType || 'udp'}, ours is ${leaseType || 'udp'}`
  }
  return undefined
}

function contains(prefix: Parameters<typeof containsPrefix>[1]) {
  return ({ network }: FamilyConfig): boolean => containsPrefix(network, prefix)
}
