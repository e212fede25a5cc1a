import { createHash } from 'node:crypto'
import { type FamilyConfig, isSubnetOf, subnetCount } from './network-config.js'
import { type Prefix, overlaps, prefixSize } from './prefix.js'
import { type Subnet, subnetPrefix } from './subnet-key.js'

export interface PickSubnet {
  readonly taken: readonly Prefix[]
  /** Subnets that somebody held once, longest unused first. */
  readonly used: readonly Prefix[]
  readonly preferred: Prefix | undefined
  readonly hostId: string
}

/**
 * A free subnet of the family: the preferred one if it is free, else one that
 * nobody has used, beginning with the one that the host id points at and going
 * around the end of the range, else the one longest unused. Undefined when none
 * is free.
 *
 * Hosts start looking at places of their own, so that fifty that start at once
 * rarely want the same subnet, and a host without state finds its old one.
 *
 * The range is never walked subnet by subnet: an IPv6 network has more of them
 * than time.
 */
export function pickSubnet(
  config: FamilyConfig,
  { taken, used, preferred, hostId }: PickSubnet,
): Prefix | undefined {
  const isFree = (subnet: Prefix): boolean =>
    !taken.some(other => overlaps(other, subnet))
  if (preferred !== undefined && isFree(preferred)) return preferred
  const start = hashOf(hostId) % subnetCount(config)
  return (
    firstFreeAround(config, [...taken, ...used], start) ??
    used.find(subnet => isSubnetOf(config, subnet) && isFree(subnet)) ??
    firstFreeAround(config, taken, start)
  )
}

/** Whether the family has a subnet that none of these overlaps. */
export function hasFreeSubnet(config: FamilyConfig, held: readonly Subnet[]): boolean {
  const taken = held.flatMap(subnet => subnetPrefix(subnet, config.network.family) ?? [])
  return firstFreeAround(config, taken, 0n) !== undefined
}

function firstFreeAround(
  config: FamilyConfig,
  taken: readonly Prefix[],
  start: bigint,
): Prefix | undefined {
  const count = subnetCount(config)
  const blocked = blockedRanges(config, taken, count)
  const index = firstFree(blocked, start, count) ?? firstFree(blocked, 0n, start)
  return index === undefined ? undefined : subnetAt(config, index)
}

function subnetAt(
  { network, subnetLength, subnetMin }: FamilyConfig,
  index: bigint,
): Prefix {
  const { family } = network
  const size = prefixSize({ family, length: subnetLength })
  return { family, network: subnetMin + index * size, length: subnetLength }
}

function hashOf(hostId: string): bigint {
  const digest = createHash('sha256').update(`subnet of ${hostId}`).digest()
  return digest.readBigUInt64BE(0)
}

/** First and last index of subnets that are not free, sorted, cut to the range. */
type IndexRange = readonly [first: bigint, last: bigint]

function blockedRanges(
  { network, subnetLength, subnetMin }: FamilyConfig,
  taken: readonly Prefix[],
  count: bigint,
): IndexRange[] {
  const size = prefixSize({ family: network.family, length: subnetLength })
  const ranges: IndexRange[] = []
  for (const prefix of taken) {
    const first = floorDivide(prefix.network - subnetMin, size)
    const last = floorDivide(prefix.network + prefixSize(prefix) - 1n - subnetMin, size)
    if (last >= 0n && first < count) ranges.push([first, last])
  }
  return ranges.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0))
}

/** BigInt division rounds towards zero. */
function floorDivide(a: bigint, b: bigint): bigint {
  return a >= 0n ? a / b : -((-a + b - 1n) / b)
}

/** The first index in [from, end) that no range covers. */
function firstFree(
  blocked: readonly IndexRange[],
  from: bigint,
  end: bigint,
): bigint | undefined {
  let index = from
  for (const [first, last] of blocked) {
    if (first > index) break
    if (last >= index) index = last + 1n
  }
  return index < end ? index : undefined
}
