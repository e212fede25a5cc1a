/** Whether packets of the network can leave by another way than the devices that encrypt them. */
import type { Link } from '../../linux/ip-links.js'
import { listRoutes, routesTo } from '../../linux/ip-routes.js'
import {
  type Prefix,
  baseAddress,
  containsAddress,
  containsPrefix,
  formatAddress,
  parseAddress,
  parsePrefix,
} from '../../subnet/prefix.js'

export interface Proof {
  readonly network: Prefix
  /** Of this host. */
  readonly own: Prefix
  /** Of the remotes. */
  readonly subnets: readonly Prefix[]
  /** Those that encrypt. */
  readonly devices: readonly string[]
  /** The link to the other hosts. */
  readonly underlay: string
  readonly links: readonly Link[]
}

/** What leads past the devices, and what to do; undefined when nothing does. */
export async function findWayPast(proof: Proof): Promise<string | undefined> {
  return (await findRoute(proof)) ?? (await findWay(proof))
}

/** A route to a part of the network. */
async function findRoute(proof: Proof): Promise<string | undefined> {
  const { network, own } = proof
  for (const { destination, nextHops } of await listRoutes(network.family)) {
    const prefix = parsePrefix(destination)
    if (!containsPrefix(network, prefix) || containsPrefix(own, prefix)) continue
    const past = nextHops.find(
      ({ device, gateway }) => gateway !== undefined || leavesHost(device, proof),
    )
    if (past !== undefined && !proof.devices.includes(past.device))
      return say(
        `the route ${destination} dev ${past.device}`,
        `ip -${network.family} route delete ${destination} dev ${past.device}`,
      )
  }
  return undefined
}

/** Containers are behind bridges and veth pairs, those of an earlier subnet of ours too. */
function leavesHost(device: string, { devices, underlay, links }: Proof): boolean {
  if (device === 'lo' || devices.includes(device)) return false
  if (device === underlay) return true
  const kind = links.find(({ name }) => name === device)?.kind
  return kind !== 'bridge' && kind !== 'veth'
}

/** Whatever rules and tables there are: for packets of this host, and of each bridge of its containers. */
async function findWay(proof: Proof): Promise<string | undefined> {
  const { own, subnets, links } = proof
  const addresses = subnets.map(subnet => formatAddress(baseAddress(subnet)))
  const container = formatAddress({ family: own.family, value: own.network + 2n })
  const bridges = links.filter(
    ({ kind, addresses }) =>
      kind === 'bridge' &&
      addresses.some(({ local }) => containsAddress(own, parseAddress(local))),
  )
  for (const from of [
    '',
    `from ${formatAddress(baseAddress(own))}`,
    ...bridges.map(({ name }) => `from ${container} iif ${name}`),
  ]) {
    const ways = await routesTo(addresses, from)
    const index = ways.findIndex(
      way => way !== undefined && leavesHost(way.device, proof),
    )
    if (index >= 0)
      return say(
        `the way to ${addresses[index] ?? ''} ${from} by ${ways[index]?.device ?? ''}`,
        'look at ip rule and ip route show table all',
      )
  }
  return undefined
}

function say(what: string, remedy: string): string {
  return `packets of the network would leave unencrypted: ${what} leads past WireGuard; ${remedy}`
}
