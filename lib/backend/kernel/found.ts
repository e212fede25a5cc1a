import { listFdb, listNeighbours, listRoutes } from '../../linux/iproute.js'
import {
  type Prefix,
  containsPrefix,
  formatPrefix,
  parsePrefix,
} from '../../subnet/prefix.js'
import { ROUTE_PROTOCOL } from '../route-protocol.js'
import { type KernelObject, FdbEntry, Neighbour, RouteByGateway } from './objects.js'

const NO_MAC = '00:00:00:00:00:00'

/**
 * Objects of ours that the kernel has: routes of our protocol to parts of our
 * Network, and what is permanent on our VXLAN devices.
 */
export async function findObjects(
  networks: readonly Prefix[],
  devices: readonly string[],
): Promise<KernelObject[]> {
  const parts = await Promise.all([
    ...networks.map(async network => {
      const routes = await listRoutes(network.family, ROUTE_PROTOCOL)
      return routes.flatMap(({ destination, nextHops, flags }) => {
        const prefix = parsePrefix(destination)
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
