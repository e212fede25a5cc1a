import { batch } from '../../linux/ip-batch.js'
import type { Link } from '../../linux/ip-links.js'
import { hasIpv6 } from '../../linux/sysctl.js'
import {
  ADDRESS_BITS,
  type Family,
  type Prefix,
  containsAddress,
  parseAddress,
} from '../../subnet/prefix.js'
import { BackendError } from '../errors.js'

/** What any link of ours is to be. */
export interface OwnLink {
  readonly name: string
  readonly mtu: number
  /** Undefined for links that have none, or where it is the kernel's choice. */
  readonly alias?: string | undefined
  readonly mac?: string | undefined
  /** Our own, one of a family. */
  readonly addresses: readonly { readonly family: Family; readonly address: string }[]
  /** Addresses within are those of an earlier subnet of ours. */
  readonly networks: readonly Prefix[]
}

/** A link that we make, of one kind. */
export interface MadeLink extends OwnLink {
  readonly alias: string
  /** As ip(8) calls it. */
  readonly kind: string
  /** What makes it, as it follows `link add NAME`. */
  readonly creation: string
  /** Whether a link of that kind is so in what cannot be changed once it is made. */
  readonly isCompatible: (link: Link) => boolean
  /** What to do when the name is taken. */
  readonly otherwise: string
}

/** Lines of ip(8) that make a link what it is to be; none when it is. Throws BackendError. */
export function linesToEnsure(wanted: MadeLink, link: Link | undefined): string[] {
  if (link === undefined) return linesToMake(wanted)
  refuseForeign(wanted, link)
  return wanted.isCompatible(link)
    ? linesToMend(wanted, link)
    : [`link delete ${wanted.name}`, ...linesToMake(wanted)]
}

function linesToMake({ name, creation, alias, mtu, addresses }: MadeLink): string[] {
  return [
    `link add ${name} ${creation}`,
    `link set dev ${name} alias ${alias}`,
    `link set dev ${name} ${NO_LINK_LOCAL}`,
    `link set dev ${name} mtu ${mtu} up`,
    ...addresses.map(address => lineToAdd(name, address)),
  ]
}

/** A device of flannel's with our name is taken over; another's is left alone. */
function refuseForeign({ name, alias, kind, otherwise }: MadeLink, link: Link): void {
  if (link.kind !== kind)
    throw new BackendError(
      'ERR_DEVICE',
      `there is a device ${name} of kind ${link.kind ?? 'none'}; remove it, or ${otherwise}`,
    )
  if (link.alias !== undefined && link.alias !== alias)
    throw new BackendError(
      'ERR_DEVICE',
      `the device ${name} is that of ${link.alias}; ${otherwise}`,
    )
}

/** The kernel's router solicitations on a device that leads to no router are noise. */
export const NO_LINK_LOCAL = 'addrgenmode none'

/** Runs lines that set up a link. What is said of IPv6 is no matter on a kernel without it. */
export async function setUpLink(lines: readonly string[]): Promise<void> {
  const isOfIpv6 = (line: string): boolean => line.endsWith(NO_LINK_LOCAL)
  await batch(hasIpv6() ? lines : lines.filter(line => !isOfIpv6(line)))
}

/** Lines of ip(8) that make a link that is there what it is to be; none when it is. */
export function linesToMend(wanted: OwnLink, link: Link): string[] {
  const { name, alias, mac, mtu, addresses } = wanted
  const own = addresses.map(({ family, address }) => `${address}/${ADDRESS_BITS[family]}`)
  const there = link.addresses.map(
    ({ local, prefixLength }) => `${local}/${prefixLength}`,
  )
  const differs = (is: string | undefined, isToBe: string | undefined): boolean =>
    isToBe !== undefined && is !== isToBe
  return [
    ...(differs(link.alias, alias) ? [`link set dev ${name} alias ${alias ?? ''}`] : []),
    ...(differs(link.mac, mac) ? [`link set dev ${name} address ${mac ?? ''}`] : []),
    ...(link.mtu === mtu ? [] : [`link set dev ${name} mtu ${mtu}`]),
    ...(link.up ? [] : [`link set dev ${name} up`]),
    ...addressesOfOurs(wanted, link)
      .filter(address => !own.includes(address))
      .map(address => `address delete ${address} dev ${name}`),
    ...addresses
      .filter((_, index) => !there.includes(own[index] ?? ''))
      .map(each => lineToAdd(name, each)),
  ]
}

function lineToAdd(
  device: string,
  { family, address }: OwnLink['addresses'][number],
): string {
  // Nobody else can have it.
  const more = family === 6 ? ' nodad' : ''
  return `address add ${address}/${ADDRESS_BITS[family]} dev ${device}${more}`
}

/** Ours, of this or an earlier subnet. */
function addressesOfOurs({ networks }: OwnLink, link: Link): string[] {
  return link.addresses
    .filter(
      ({ family, local, scope }) =>
        scope !== 'link' &&
        networks.some(
          network =>
            network.family === family && containsAddress(network, parseAddress(local)),
        ),
    )
    .map(({ local, prefixLength }) => `${local}/${prefixLength}`)
}
