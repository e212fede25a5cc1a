import {
  ADDRESS_BITS,
  type Address,
  type Prefix,
  containsAddress,
  containsPrefix,
  formatAddress,
  formatPrefix,
  overlaps,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
} from '../subnet/prefix.js'
import { ROUTE_PROTOCOL } from './route-protocol.js'
import type { HostNetwork } from './underlay.js'

export interface OverlapCheck {
  readonly network: Prefix
  readonly host: HostNetwork
  /** etcd's addresses, as far as they are known as addresses. */
  readonly endpoints: readonly Address[]
  /** Devices of ours from an earlier run. */
  readonly ownDevices: readonly string[]
  /** Routes to parts of the network are the operator's, and single addresses on devices of his: they lead to the other hosts. */
  readonly leavesRoutes?: boolean
  /** Subnets that this host has held: a bridge inside one is what an earlier run was for. */
  readonly ownSubnets?: readonly Prefix[]
}

/**
 * What on this host uses addresses of the Network already: an interface, the
 * default gateway, etcd, a route. With such a Network the daemon would cut the
 * host off (flannel-io/flannel#611). One sentence each.
 */
export function findOverlaps(check: OverlapCheck): string[] {
  return [
    ...overlappingGateways(check),
    ...overlappingLinks(check),
    ...overlappingEndpoints(check),
    ...overlappingRoutes(check),
  ]
}

function overlappingGateways({ network, host }: OverlapCheck): string[] {
  return host.routes
    .filter(route => parsePrefix(route.destination).length === 0)
    .flatMap(route => route.nextHops)
    .filter(({ gateway }) => gateway !== undefined && contains(network, gateway))
    .map(
      ({ gateway, device }) =>
        `network ${formatPrefix(network)} contains the default gateway ${gateway ?? ''} (${device})`,
    )
}

function overlappingLinks(check: OverlapCheck): string[] {
  const { network, host, ownDevices, leavesRoutes = false } = check
  return host.links
    .filter(link => !ownDevices.includes(link.name))
    .flatMap(link => link.addresses.map(address => ({ link, address })))
    .flatMap(({ link, address }) => {
      const range = parseInterfaceAddress(`${address.local}/${address.prefixLength}`)
      if (!overlaps(network, range) || isOurs(range, check)) return []
      if (leavesRoutes && range.length === ADDRESS_BITS[range.family]) return []
      const place = `${link.name} (${address.local}/${address.prefixLength})`
      const sentence = `network ${formatPrefix(network)} overlaps`
      if (link.kind !== 'bridge') return [`${sentence} interface ${place}`]
      const remedy = containsPrefix(network, range)
        ? `, unless it is Docker's from a subnet that this host once had: then ip link delete ${link.name}, and restart Docker`
        : ''
      return [`${sentence} bridge ${place}${remedy}`]
    })
}

function overlappingEndpoints({ network, endpoints }: OverlapCheck): string[] {
  return endpoints
    .filter(endpoint => containsAddress(network, endpoint))
    .map(
      endpoint =>
        `network ${formatPrefix(network)} contains etcd at ${formatAddress(endpoint)}`,
    )
}

/** A route is ours by our protocol number; the kernel's own routes were judged as addresses. */
function overlappingRoutes(check: OverlapCheck): string[] {
  const { network, host, ownDevices, leavesRoutes = false } = check
  return host.routes.flatMap(route => {
    const range = parsePrefix(route.destination)
    if (leavesRoutes && containsPrefix(network, range)) return []
    const [hop] = route.nextHops
    const own =
      route.protocol === String(ROUTE_PROTOCOL) ||
      (hop !== undefined && ownDevices.includes(hop.device))
    const skip = range.length === 0 || own || route.protocol === 'kernel'
    if (skip || !overlaps(network, range) || isOurs(range, check)) return []
    const by = hop === undefined ? route.type : (hop.gateway ?? hop.device)
    return [
      `network ${formatPrefix(network)} overlaps the route ${route.destination} via ${by}`,
    ]
  })
}

function isOurs(range: Prefix, { ownSubnets = [] }: OverlapCheck): boolean {
  return ownSubnets.some(subnet => containsPrefix(subnet, range))
}

function contains(network: Prefix, text: string): boolean {
  return containsAddress(network, parseAddress(text))
}
