import { posix } from 'node:path'
import {
  type Family,
  type Prefix,
  formatAddress,
  formatPrefix,
  overlaps,
  parseInterfaceAddress,
  parsePrefix,
  samePrefix,
} from './prefix.js'

/** One host's share of the network: a prefix of each family in use, at least one. */
export interface Subnet {
  readonly 4?: Prefix
  readonly 6?: Prefix
}

export function subnetFromPrefixes(prefixes: readonly Prefix[]): Subnet {
  return Object.fromEntries(prefixes.map(prefix => [prefix.family, prefix]))
}

export function subnetPrefix(subnet: Subnet, family: Family): Prefix | undefined {
  return subnet[family]
}

/** IPv4 first. */
export function prefixesOf(subnet: Subnet): Prefix[] {
  return [subnet[4], subnet[6]].filter(prefix => prefix !== undefined)
}

export function sameSubnet(a: Subnet, b: Subnet): boolean {
  return samePrefix(a[4], b[4]) && samePrefix(a[6], b[6])
}

export function subnetsOverlap(a: Subnet, b: Subnet): boolean {
  return prefixesOf(a).some(half => prefixesOf(b).some(other => overlaps(half, other)))
}

/** For people: `10.5.72.0/24` or `10.5.72.0/24 and fd00::/64`. */
export function formatSubnet(subnet: Subnet): string {
  return prefixesOf(subnet).map(formatPrefix).join(' and ')
}

/** The ranges of what formatSubnet writes. Throws as parsePrefix does. */
export function parseSubnetText(text: string): Prefix[] {
  return text.split(' and ').map(half => parsePrefix(half.trim()))
}

/** The etcd prefix as flannel joins it: one slash between parts, one in front, none at the end. */
export function cleanPrefix(text: string): string {
  const clean = posix.normalize(`/${text}`).replace(/\/+$/, '')
  return clean.replace(/^\/+/, '/')
}

export function configKey(prefix: string): string {
  return `${prefix}/config`
}

/** Where the subnet records are. With the slash: `subnets-old` is none of our business. */
export function subnetsPrefix(prefix: string): string {
  return `${prefix}/subnets/`
}

/** An IPv6-only key keeps this in the place of its IPv4 half. */
const NO_IPV4 = '0.0.0.0-0'

/** `10.5.52.0-24`, or `10.12.13.0-24&fd00:12:13::-56` with both families. */
const NAME = /^(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([0-9a-f:]{2,39})-(\d{1,3}))?$/

/** The longest prefixes that flannel's parser takes: 5 bits of length, and 7. */
const LONGEST = { 4: 31, 6: 127 } as const

/** Name of a subnet's key, without the path. */
export function formatSubnetName(subnet: Subnet): string {
  const v4 = subnet[4] === undefined ? NO_IPV4 : formatHalf(subnet[4])
  return subnet[6] === undefined ? v4 : `${v4}&${formatHalf(subnet[6])}`
}

function formatHalf({ family, network, length }: Prefix): string {
  return `${formatAddress({ family, value: network })}-${length}`
}

export function formatSubnetKey(prefix: string, subnet: Subnet): string {
  return `${subnetsPrefix(prefix)}${formatSubnetName(subnet)}`
}

/**
 * Reads the subnet from a key, or from its name alone. Only the one spelling
 * that flannel and we write is taken, and only right below `subnets/`: any other
 * would name a subnet that has a key already. Throws SyntaxError.
 */
export function parseSubnetKey(key: string): Subnet {
  const [, name = ''] = /^(?:.*\/subnets\/)?([^/]+)$/.exec(key) ?? []
  const subnet = parseName(name)
  if (subnet === undefined || formatSubnetName(subnet) !== name) {
    throw new SyntaxError(
      `key ${JSON.stringify(key)} does not name a subnet such as 10.5.52.0-24`,
    )
  }
  return subnet
}

/** The subnet that a key names; undefined when it names none. */
export function readSubnetKey(key: string): Subnet | undefined {
  try {
    return parseSubnetKey(key)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function parseName(name: string): Subnet | undefined {
  const [, address4, length4, address6, length6] = NAME.exec(name) ?? []
  if (address4 === undefined || length4 === undefined) return undefined
  const v4 =
    `${address4}-${length4}` === NO_IPV4 ? undefined : parseHalf(address4, length4, 4)
  const v6 =
    address6 === undefined || length6 === undefined
      ? undefined
      : parseHalf(address6, length6, 6)
  if (v4 === undefined && v6 === undefined) return undefined
  return { ...(v4 && { 4: v4 }), ...(v6 && { 6: v6 }) }
}

function parseHalf(address: string, length: string, family: Family): Prefix | undefined {
  try {
    const parsed = parseInterfaceAddress(`${address}/${length}`)
    const { network } = parsed
    if (
      parsed.family !== family ||
      parsed.length > LONGEST[family] ||
      parsed.length === 0
    )
      return undefined
    // Host bits would alias the subnet that they lie in.
    return parsed.address.value === network
      ? { family, network, length: parsed.length }
      : undefined
  } catch {
    return undefined
  }
}
