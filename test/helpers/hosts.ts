import type { HostNetwork } from '../../lib/backend/underlay.js'
import { parseLinks } from '../../lib/linux/ip-links.js'
import { parseRoutes } from '../../lib/linux/ip-routes.js'

/** A host as iproute2 6.1 prints it, cut to what is looked at. */
export interface RecordedHost {
  readonly links: readonly unknown[]
  readonly routes4: readonly unknown[]
  readonly routes6?: readonly unknown[]
}

export function hostNetwork({ links, routes4, routes6 = [] }: RecordedHost): HostNetwork {
  return {
    links: parseLinks(JSON.stringify(links)),
    routes: [
      ...parseRoutes(JSON.stringify(routes4), 4),
      ...parseRoutes(JSON.stringify(routes6), 6),
    ],
  }
}

/** A link with addresses such as `192.0.2.1/24`, `fd00::1/64 temporary`. */
export function link(
  name: string,
  addresses: readonly string[],
  more: object = {},
): unknown {
  return {
    ifindex: 2,
    ifname: name,
    flags: ['BROADCAST', 'MULTICAST', 'UP', 'LOWER_UP'],
    mtu: 1500,
    operstate: 'UP',
    address: '52:54:00:12:34:56',
    addr_info: addresses.map(text => {
      const [range = '', ...marks] = text.split(' ')
      const [local = '', prefixlen] = range.split('/')
      return {
        family: local.includes(':') ? 'inet6' : 'inet',
        local,
        prefixlen: Number(prefixlen),
        scope: marks.find(mark => ['host', 'link'].includes(mark)) ?? 'global',
        ...Object.fromEntries(marks.map(mark => [mark, true])),
      }
    }),
    ...more,
  }
}
