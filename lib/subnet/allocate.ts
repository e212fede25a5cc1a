import { createHash } from 'node:crypto'
import { type FamilyConfig, subnetCount } from './network-config.js'
import { type Prefix, overlaps, prefixSize } from './prefix.js'

/**
 * A free subnet of the family: the preferred one if it is free, else the one
 * that the host id points at, else the next free one behind it, around the end
 * of the range. Undefined when none is free.
 *
 * Hosts start looking at places of their own, so that fifty that start at once
 * rarely want the same subnet, and a host without state finds its old one.
 *
 * The range is never walked subnet by subnet: an IPv6 network has more of them
 * than time.
 */
export function pickSubnet(
  config: FamilyConfig,
  taken: readonly Prefix[],
  preferred: Prefix | undefined,
  hostId: string,
): Prefix | undefined {
  if (preferred !== undefined && !taken.some(other => overlaps(other, preferred)))
    return preferred
  const count = subnetCount(config)
  const blocked = blockedRanges(config, taken, count)
  const start = hashOf(hostId) % count
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
