import { listFdb, listNeighbours } from '../../linux/ip-neighbours.js'
import { type Route, listRoutes } from '../../linux/ip-routes.js'
import {
  type Prefix,
  containsPrefix,
  formatPrefix,
  parsePrefix,
  samePrefix,
} from '../../subnet/prefix.js'
import { LAST_METRIC, ROUTE_PROTOCOL } from '../route-protocol.js'
import {
  type KernelObject,
  FdbEntry,
  Neighbour,
  RouteByGateway,
  RouteToDevice,
  RouteToNowhere,
  destinationOf,
} from './objects.js'

const NO_MAC = '00:00:00:00:00:00'

/**
 * Objects of ours that the kernel has: routes of our protocol to our Network and
 * parts of it, and what is permanent on our VXLAN devices.
 */
export async function findObjects(
  networks: readonly Prefix[],
  devices: readonly string[],
): Promise<KernelObject[]> {
  const parts = await Promise.all([
    ...networks.map(async network => {
      const routes = await listRoutes(network.family, { protocol: ROUTE_PROTOCOL })
      return routes.flatMap((route): KernelObject[] => {
        const { destination, type, metric, nextHops, flags } = route
        const prefix = parsePrefix(destination)
        if (type === 'unreachable' && metric === LAST_METRIC)
          return samePrefix(prefix, network) ? [new RouteToNowhere(destination)] : []
        const isPart = prefix.length > network.length && containsPrefix(network, prefix)
        const [hop] = nextHops
        if (!isPart || hop?.gateway === undefined) return []
        const isOnLink = flags.includes('onlink')
        return [
          new RouteByGateway({
            destination: formatPrefix(prefix),
            gateway: hop.gateway,
            device: hop.device,
            isOnLink,
          }),
        ]
      })
    }),
    ...devices.flatMap(device => [
      listFdb(device).then(entries =>
        entries
          .filter(({ mac }) => mac !== NO_MAC)
          .map(({ mac, destination }) => new FdbEntry(device, mac, destination)),
      ),
      ...networks.map(({ family }) =>
        listNeighbours(family, device).then(entries =>
          entries.map(({ address, mac }) => new Neighbour(device, address, mac)),
        ),
      ),
    ]),
  ])
  return parts.flat()
}

/** The network's own route, which leads into a device of ours. */
export async function findNetworkRoutes(
  networks: readonly Prefix[],
  device: string,
): Promise<KernelObject[]> {
  const found = networks.map(async network => {
    const routes = await listRoutes(network.family, { protocol: ROUTE_PROTOCOL })
    const destination = formatPrefix(network)
    const isThere = routes.some(
      route =>
        leadsTo(route, destination) &&
        route.nextHops.some(hop => hop.device === device && hop.gateway === undefined),
    )
    return isThere ? [new RouteToDevice(network.family, destination, device)] : []
  })
  return (await Promise.all(found)).flat()
}

function leadsTo(route: Route, destination: string): boolean {
  return formatPrefix(parsePrefix(route.destination)) === destination
}

/** What the kernel has, whosever it is, instead of a route of ours; undefined for nothing. */
export async function describeRoutes(key: string): Promise<string | undefined> {
  const destination = destinationOf(key)
  if (destination === undefined) return undefined
  const routes = await listRoutes(parsePrefix(destination).family)
  const there = routes.filter(route => leadsTo(route, destination))
  const texts = there.map(({ type, protocol, nextHops: [hop] }) =>
    [
      ...(type === 'unicast' ? [] : [type]),
      ...(hop?.gateway === undefined ? [] : [`via ${hop.gateway}`]),
      ...(hop === undefined ? [] : [`dev ${hop.device}`]),
      `proto ${protocol}`,
    ].join(' '),
  )
  return texts.length === 0 ? undefined : texts.join(', ')
}
