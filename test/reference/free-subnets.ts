import type { FamilyConfig } from '../../lib/subnet/network-config.js'
import { type Prefix, overlaps, prefixSize } from '../../lib/subnet/prefix.js'

/** Every subnet that a host could be given, in order, found by looking at each. */
export function freeSubnets(
  { network, subnetLength, subnetMin, subnetMax }: FamilyConfig,
  taken: readonly Prefix[],
): Prefix[] {
  const { family } = network
  const step = prefixSize({ family, length: subnetLength })
  const free: Prefix[] = []
  for (let base = subnetMin; base <= subnetMax; base += step) {
    const subnet = { family, network: base, length: subnetLength }
    if (!taken.some(other => overlaps(other, subnet))) free.push(subnet)
  }
  return free
}
