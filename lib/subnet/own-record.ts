import type { Address } from './prefix.js'
import { sameAddress } from './prefix.js'
import { type Subnet, sameSubnet, subnetsOverlap } from './subnet-key.js'
import type { OwnHolder, SubnetRecord } from './subnet-record.js'

export interface WhoWeAre {
  readonly holder: OwnHolder
  /** Addresses of this host's interfaces. */
  readonly localAddresses: readonly Address[]
  /** The subnet we held last. */
  readonly previous?: Subnet | undefined
}

/**
 * The record that is ours, if there is one. In this order:
 *
 *   1. a lease with our host id, unless the subnet that we held last is free
 *   2. a reservation for our host id or addresses, unless it is
 *   3. a lease whose public IP is an address of this host: flannel's, or, unless
 *      the subnet that we held last is free, ours from before our state was lost
 *   4. behind NAT, where several hosts share the public IP: a record of flannel's
 *      with that IP, only if it is the subnet that we held last
 */
export function findOwnRecord(
  records: readonly SubnetRecord[],
  { holder, localAddresses, previous }: WhoWeAre,
): SubnetRecord | undefined {
  const hasPublicIp = ({ holder: other }: SubnetRecord): boolean =>
    isSome(other.publicIp, holder.publicIp) || isSome(other.publicIpv6, holder.publicIpv6)
  const isHere = ({ holder: other }: SubnetRecord): boolean =>
    localAddresses.some(
      address => isSome(other.publicIp, address) || isSome(other.publicIpv6, address),
    )
  const isOurId = (record: SubnetRecord): boolean =>
    record.holder.hostId === holder.hostId
  const isNobodysId = (record: SubnetRecord): boolean =>
    record.holder.hostId === undefined
  // Without a record on it the last subnet is free, and containers live on it: a lease
  // with our id elsewhere is an old one, from a backup.
  const isLastTaken = records.some(
    ({ subnet }) => previous === undefined || subnetsOverlap(subnet, previous),
  )
  const leases = records.filter(({ kind }) => kind === 'lease')
  const reservations = isLastTaken
    ? records.filter(({ kind }) => kind === 'reservation')
    : []
  const forUs = [
    ...reservations.filter(isOurId),
    ...reservations.filter(
      record => isNobodysId(record) && (hasPublicIp(record) || isHere(record)),
    ),
  ]
  const preferLast = (found: readonly SubnetRecord[]): SubnetRecord | undefined =>
    found.find(({ subnet }) => previous !== undefined && sameSubnet(subnet, previous)) ??
    found[0]
  return (
    preferLast(isLastTaken ? leases.filter(isOurId) : []) ??
    preferLast(forUs) ??
    leases.find(record => isHere(record) && (isLastTaken || isNobodysId(record))) ??
    records.find(
      record =>
        isNobodysId(record) &&
        hasPublicIp(record) &&
        previous !== undefined &&
        sameSubnet(record.subnet, previous),
    )
  )
}

function isSome(a: Address | undefined, b: Address | undefined): boolean {
  return a !== undefined && sameAddress(a, b)
}
