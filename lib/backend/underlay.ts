import type { IpFamily } from '../linux/ip-json.js'
import { type Link, type LinkAddress, listLinks } from '../linux/ip-links.js'
import { type Route, listRoutes, routeTo } from '../linux/ip-routes.js'
import {
  type Address,
  type Family,
  formatAddress,
  parseAddress,
  sameAddress,
} from '../subnet/prefix.js'
import { BackendError } from './errors.js'

/** The interface that packets to other hosts leave by, and this host's addresses on it. */
export interface Underlay {
  readonly device: string
  readonly index: number
  readonly mtu: number
  readonly mac: string | undefined
  /** Our own addresses on the interface, by family. */
  readonly addresses: AddressPair
  /** The addresses that other hosts reach us by, by family. */
  readonly publicAddresses: AddressPair
  /** What the operator should know about the choice. */
  readonly notes: readonly string[]
}

export interface AddressPair {
  readonly 4?: Address
  readonly 6?: Address
}

export interface UnderlayOptions {
  /** --iface: names or addresses, in order. */
  readonly ifaces: readonly string[]
  readonly ifaceRegexes: readonly string[]
  readonly ifaceCanReach: string
  /** --public-ip and --public-ipv6. */
  readonly publicIps: AddressPair
  readonly families: readonly Family[]
  /** The addresses that this host has had until now. */
  readonly present?: AddressPair
}

/** What the choice is made from. */
export interface HostNetwork {
  readonly links: readonly Link[]
  readonly routes: readonly Route[]
  /** Where the kernel would send packets to --iface-can-reach. */
  readonly reach?: { readonly device: string; readonly source: string | undefined }
}

/** Throws ERR_UNDERLAY when ip(8) is missing or cannot be understood. */
export async function readHostNetwork(ifaceCanReach = ''): Promise<HostNetwork> {
  const [links, routes] = await readKernel()
  if (ifaceCanReach === '') return { links, routes }
  try {
    return { links, routes, reach: await routeTo(ifaceCanReach) }
  } catch {
    return { links, routes } // chooseUnderlay says that nothing reaches it
  }
}

async function readKernel(): Promise<[links: Link[], routes: Route[]]> {
  try {
    const [links, ...routes] = await Promise.all([
      listLinks(),
      listRoutes(4),
      listRoutes(6),
    ])
    return [links, routes.flat()]
  } catch (cause) {
    const message = `cannot read the links and routes of this host: ${(cause as Error).message}`
    throw new BackendError('ERR_UNDERLAY', message, { cause })
  }
}

/** A candidate interface, perhaps with the one address that was asked for. */
interface Choice {
  readonly link: Link
  readonly address?: Address
}

/**
 * Chooses the interface as flannel does: --iface, --iface-regex,
 * --iface-can-reach, in that order; with none of them the interface that has
 * the public IP, else the one of the default route. Throws ERR_UNDERLAY.
 */
export function chooseUnderlay(options: UnderlayOptions, host: HostNetwork): Underlay {
  const notes: string[] = []
  const choice = isChoiceLeftOpen(options)
    ? chooseByDefault(options, host, notes)
    : chooseByOptions(options, host)
  return describe(choice, options, notes)
}

function isChoiceLeftOpen({
  ifaces,
  ifaceRegexes,
  ifaceCanReach,
}: UnderlayOptions): boolean {
  return ifaces.length === 0 && ifaceRegexes.length === 0 && ifaceCanReach === ''
}

function chooseByOptions(options: UnderlayOptions, host: HostNetwork): Choice {
  const attempts: (() => Choice | undefined)[] = [
    ...options.ifaces.map(name => () => findByNameOrAddress(name, host)),
    ...options.ifaceRegexes.map(text => () => findByRegex(text, options.families, host)),
    () => findByReach(options.ifaceCanReach, host),
  ]
  for (const attempt of attempts) {
    const choice = attempt()
    if (choice !== undefined) return choice
  }
  const asked = [
    ...options.ifaces.map(name => `--iface=${name}`),
    ...options.ifaceRegexes.map(text => `--iface-regex=${text}`),
    ...(options.ifaceCanReach === ''
      ? []
      : [`--iface-can-reach=${options.ifaceCanReach}`]),
  ]
  const known = host.links.map(link => link.name).join(', ')
  throw new BackendError(
    'ERR_UNDERLAY',
    `Failed to find interface to use that matches the interfaces and/or regexes provided: ${asked.join(' ')}; this host has ${known}`,
  )
}

function findByNameOrAddress(name: string, { links }: HostNetwork): Choice | undefined {
  const address = tryParseAddress(name)
  if (address === undefined) {
    const link = links.find(candidate => candidate.name === name)
    return link && { link }
  }
  const link = findHolder(links, address)
  return link && { link, address }
}

function findHolder(links: readonly Link[], address: Address): Link | undefined {
  return links.find(link =>
    link.addresses.some(({ local }) => sameAddress(tryParseAddress(local), address)),
  )
}

/** Against every usable address first, then against names; with two families, both must match on one interface. */
function findByRegex(
  text: string,
  families: readonly Family[],
  { links }: HostNetwork,
): Choice | undefined {
  const regex = compile(text)
  const byAddress = links.find(link =>
    families.every(family => usable(link, family).some(({ local }) => regex.test(local))),
  )
  if (byAddress !== undefined) {
    const [family] = families
    const match =
      families.length === 1 && family !== undefined
        ? usable(byAddress, family).find(({ local }) => regex.test(local))
        : undefined
    const address = match && tryParseAddress(match.local)
    return { link: byAddress, ...(address && { address }) }
  }
  const byName = links.find(link => regex.test(link.name))
  return byName && { link: byName }
}

function compile(text: string): RegExp {
  try {
    return new RegExp(text)
  } catch (cause) {
    throw new BackendError('ERR_UNDERLAY', `--iface-regex: ${(cause as Error).message}`, {
      cause,
    })
  }
}

function findByReach(text: string, { links, reach }: HostNetwork): Choice | undefined {
  if (text === '' || reach === undefined) return undefined
  const link = links.find(candidate => candidate.name === reach.device)
  const address = reach.source === undefined ? undefined : tryParseAddress(reach.source)
  return link && { link, ...(address && { address }) }
}

function chooseByDefault(
  options: UnderlayOptions,
  host: HostNetwork,
  notes: string[],
): Choice {
  const wanted = options.publicIps[4] ?? options.publicIps[6]
  if (wanted !== undefined) {
    const link = findHolder(host.links, wanted)
    if (link !== undefined) return { link, address: wanted }
    notes.push(
      `no interface has ${formatAddress(wanted)}, so this host seems to be behind NAT; using the interface of the default route`,
    )
  }
  return { link: defaultRouteLink(options.families, host) }
}

/** With both families, IPv4's default route decides and IPv6's must agree. */
function defaultRouteLink(families: readonly Family[], host: HostNetwork): Link {
  const [first, ...others] = families.map(family => defaultDevice(family, host))
  if (first === undefined) throw new TypeError('no address family given')
  const different = others.find(device => device !== first)
  if (different !== undefined) {
    throw new BackendError(
      'ERR_UNDERLAY',
      `the IPv4 default route is on ${first} and the IPv6 one on ${different}; choose with --iface`,
    )
  }
  const link = host.links.find(candidate => candidate.name === first)
  if (link === undefined) throw noDefaultRoute()
  return link
}

/** The default route of the lowest metric; of a multipath one the first next hop that is up. */
function defaultDevice(family: Family, { links, routes }: HostNetwork): string {
  const destination = family === 4 ? '0.0.0.0/0' : '::/0'
  const candidates = routes
    .filter(route => route.destination === destination && route.type === 'unicast')
    .toSorted((a, b) => a.metric - b.metric)
    .flatMap(route => route.nextHops.map(hop => hop.device))
  const isUp = (device: string): boolean =>
    links.some(link => link.name === device && link.up)
  const device = candidates.find(isUp) ?? candidates[0]
  if (device === undefined) throw noDefaultRoute()
  return device
}

function noDefaultRoute(): BackendError {
  return new BackendError(
    'ERR_UNDERLAY',
    'unable to find default route; name the interface to other hosts with --iface',
  )
}

function describe(
  { link, address }: Choice,
  { families, publicIps, present = {} }: UnderlayOptions,
  notes: string[],
): Underlay {
  if (link.mtu === 0) {
    throw new BackendError('ERR_UNDERLAY', `interface ${link.name} has an MTU of 0`)
  }
  const addresses = families.map(family =>
    address?.family === family ? address : bestAddress(link, family, present[family]),
  )
  const own = pair(addresses)
  return {
    device: link.name,
    index: link.index,
    mtu: link.mtu,
    mac: link.mac,
    addresses: own,
    publicAddresses: pair(
      families
        .map(family => publicIps[family] ?? own[family])
        .filter(found => found !== undefined),
    ),
    notes,
  }
}

function pair(addresses: readonly Address[]): AddressPair {
  return Object.fromEntries(addresses.map(address => [address.family, address]))
}

/**
 * Global before link-local, permanent before dynamic, lasting before temporary; of
 * equals the one that remotes know: the kernel lists the newest of IPv6 first.
 */
function bestAddress(link: Link, family: Family, present: Address | undefined): Address {
  const isOther = ({ local }: LinkAddress): number =>
    Number(!sameAddress(tryParseAddress(local), present))
  const [best] = usable(link, family).toSorted(
    (a, b) => rank(a) - rank(b) || isOther(a) - isOther(b),
  )
  const address = best && tryParseAddress(best.local)
  if (address !== undefined) return address
  throw new BackendError(
    'ERR_UNDERLAY',
    `interface ${link.name} has no usable IPv${family} address; choose another with --iface`,
  )
}

function usable(link: Link, family: IpFamily): LinkAddress[] {
  return link.addresses.filter(
    ({ family: own, scope, deprecated, tentative }) =>
      own === family &&
      (scope === 'global' || scope === 'link') &&
      !deprecated &&
      !tentative,
  )
}

function rank({ scope, dynamic, temporary }: LinkAddress): number {
  return (scope === 'global' ? 0 : 4) + (dynamic ? 2 : 0) + (temporary ? 1 : 0)
}

function tryParseAddress(text: string): Address | undefined {
  try {
    return parseAddress(text)
  } catch {
    return undefined
  }
}
