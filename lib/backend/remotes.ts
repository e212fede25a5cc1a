import {
  type FamilyConfig,
  LONGEST_SUBNET,
  type NetworkConfig,
} from '../subnet/network-config.js'
import { containsPrefix, overlaps } from '../subnet/prefix.js'
import { type Subnet, formatSubnet, prefixesOf } from '../subnet/subnet-key.js'
import type { SubnetRecord } from '../subnet/subnet-record.js'
import type { Remote } from './backend.js'

export interface RemoteSelection {
  readonly remotes: readonly Remote[]
  /** Records that cannot be used, each with the reason for the operator. */
  readonly rejected: readonly { readonly key: string; readonly why: string }[]
}

/**
 * The remotes among the subnet records: everybody's but ours, if they are there,
 * speak our backend and their subnet may be routed. What a record claims is not trusted:
 * one outside the network or over our own subnet changes nothing here.
 */
export function selectRemotes(
  records: readonly SubnetRecord[],
  own: { readonly key: string; readonly subnet: Subnet },
  config: NetworkConfig,
  leaseType: string,
): RemoteSelection {
  const remotes: Remote[] = []
  const rejected: { key: string; why: string }[] = []
  for (const record of records) {
    const { publicIp, publicIpv6 } = record.holder
    const isThere = publicIp !== undefined || publicIpv6 !== undefined
    if (record.key === own.key || !isThere) continue
    const why = reject(record, own.subnet, config, leaseType)
    if (why === undefined) remotes.push({ subnet: record.subnet, holder: record.holder })
    else rejected.push({ key: record.key, why })
  }
  return { remotes, rejected }
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
