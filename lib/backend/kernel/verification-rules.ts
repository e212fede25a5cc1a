/**
 * The rules by which the kernel takes no packet of the overlay but from a host
 * that leases its source: pure text of nft(8).
 *
 * `@th,offset,length` are bits from the start of the transport header. Every
 * packet that is looked at comes out of an encapsulation of ours: what somebody
 * else sends to the same port with another VNI is not ours to judge.
 */
import type { Counter } from '../../linux/nft.js'
import {
  ADDRESS_BITS,
  type Address,
  type Family,
  type Prefix,
  containsPrefix,
  formatAddress,
  formatPrefix,
  prefixSize,
} from '../../subnet/prefix.js'

/** Where the parts of an inner packet are, in bits of the outer transport header. */
export interface Encapsulation {
  /** Outer and inner family. */
  readonly family: Family
  /** How it comes, and what of that is ours. */
  readonly match: string
  /** How a fragment comes that hides what of it is ours; undefined where the kernel puts them together first. */
  readonly fragment: string | undefined
  /** Where only packets from the network mark it as ours: the device that all of it comes out of. */
  readonly open: { readonly device: string; readonly network: Prefix } | undefined
  /** EtherType of the inner frame, if there is a frame. */
  readonly etherType: number | undefined
  /** Inner IP header. */
  readonly header: number
}

const UDP_BITS = 64
const VXLAN_BITS = 64
const ETHERNET_BITS = 112

/** RFC 7348: the VNI is behind a byte of flags and three that are reserved. */
export function vxlanEncapsulation(
  family: Family,
  { port, vni }: { readonly port: number; readonly vni: number },
): Encapsulation {
  const frame = UDP_BITS + VXLAN_BITS
  const way = `udp dport ${port}`
  return {
    family,
    match: `${way} @th,${UDP_BITS + 32},24 ${vni}`,
    // IPv6 comes to this hook before its fragments are put together: the VNI of one
    // cannot be read, and no VXLAN device of ours sends such (the MTU sees to that).
    fragment: family === 6 ? `exthdr frag exists ${way}` : undefined,
    open: undefined,
    etherType: frame + 96,
    header: frame + ETHERNET_BITS,
  }
}

/** IANA's number of IPv4 in an IP packet; names of it mean others, too. */
const IP_IN_IP = 4

/** RFC 2003: the inner header follows at once. What comes from our Network is ours. */
export function ipipEncapsulation(device: string, network: Prefix): Encapsulation {
  const source = `@th,${SOURCE[4]},${network.length} ${keyOf(network)}`
  return {
    family: 4,
    match: `meta l4proto ${IP_IN_IP} ${source}`,
    fragment: undefined,
    open: { device, network },
    etherType: undefined,
    header: 0,
  }
}

const ETHER_TYPE = { 4: '0x0800', 6: '0x86dd' } as const

/** RFC 791 and RFC 8200: bits of the header before its addresses. */
const SOURCE = { 4: 96, 6: 64 } as const
const DESTINATION = { 4: 128, 6: 192 } as const

const DADDR = { 4: 'ip daddr', 6: 'ip6 daddr' } as const
const SADDR = { 4: 'ip saddr', 6: 'ip6 saddr' } as const

/** Why a packet is dropped: names of counters, and of the sets of those who sent it. */
export const BLAMED = ['unknownSender', 'wrongSource', 'wrongDestination'] as const
export const COUNTERS = ['notIp', 'fragment', ...BLAMED, 'reversePath'] as const

/** Offenders that are remembered of each reason and family, for so long. */
const MOST_OFFENDERS = 64
const OFFENDER_TIMEOUT = '1h'

export interface VerifiedFamily {
  readonly encapsulation: Encapsulation
  /** Of this host. */
  readonly subnet: Prefix
}

export interface VerificationRules {
  readonly families: readonly VerifiedFamily[]
  /** `strict`: outer and inner source belong together; `inner`: the inner one alone. */
  readonly mode: 'strict' | 'inner'
  /** What comes from the networks without encapsulation. */
  readonly direct: DirectRules | undefined
}

interface DirectRules {
  /** The underlay's. */
  readonly device: string
  readonly networks: readonly Prefix[]
  /** From sources that are leased it is taken; else nothing that is for this host's containers. */
  readonly isTaken: boolean
  /** Of this host, where nothing is taken. */
  readonly subnets: readonly Prefix[]
}

/** A host that may send, and what. */
export interface Sender {
  readonly addresses: readonly Address[]
  readonly subnets: readonly Prefix[]
}

/** Elements by name of their set. */
export type Elements = ReadonlyMap<string, ReadonlySet<string>>

/** What is to be in the sets, and what kinds of sets they are. */
export interface Membership {
  readonly elements: Elements
  /** Families whose inner sources are ranges. */
  readonly ranged: ReadonlySet<Family>
}

/**
 * A set whose keys are all of one length in whole bytes is a hash set, which is
 * quick to change; any other holds ranges of addresses.
 */
export function membershipOf(
  { families, mode, direct }: VerificationRules,
  senders: readonly Sender[],
): Membership {
  const elements = new Map<string, Set<string>>()
  const ranged = new Set<Family>()
  for (const { encapsulation, subnet: own } of families) {
    const { family } = encapsulation
    const [pairs, known] = [new Set<string>(), new Set<string>()]
    elements.set(`pairs${family}`, pairs)
    elements.set(`senders${family}`, known)
    const isRanged =
      own.length % 8 !== 0 ||
      senders.some(({ subnets }) =>
        subnets.some(each => each.family === family && each.length !== own.length),
      )
    if (isRanged) ranged.add(family)
    for (const { addresses, subnets } of senders) {
      const outer = addresses
        .filter(address => address.family === family)
        .map(formatAddress)
      for (const address of outer) known.add(address)
      for (const subnet of subnets) {
        if (subnet.family !== family) continue
        const inner = isRanged ? rangeOf(subnet) : keyOf(subnet)
        if (mode === 'inner') pairs.add(inner)
        else for (const address of outer) pairs.add(`${address} . ${inner}`)
      }
    }
  }
  for (const { family } of takenNetworks(direct)) {
    const leased = senders.flatMap(({ subnets }) =>
      subnets.filter(each => each.family === family),
    )
    elements.set(`leased${family}`, new Set(outermost(leased).map(formatPrefix)))
  }
  return { elements, ranged }
}

/** The bits of a subnet that all its addresses share. */
function keyOf({ family, network, length }: Prefix): string {
  return hex(network >> BigInt(ADDRESS_BITS[family] - length))
}

function rangeOf(subnet: Prefix): string {
  return `${hex(subnet.network)}-${hex(subnet.network + prefixSize(subnet) - 1n)}`
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}

/** Without those that lie in another: intervals of a set must not overlap. */
function outermost(prefixes: readonly Prefix[]): Prefix[] {
  const ordered = prefixes.toSorted((a, b) =>
    a.network === b.network ? a.length - b.length : a.network < b.network ? -1 : 1,
  )
  const found: Prefix[] = []
  for (const prefix of ordered) {
    const last = found.at(-1)
    if (last === undefined || !containsPrefix(last, prefix)) found.push(prefix)
  }
  return found
}

/** Whether the sets of one membership can become those of another. */
export function isSameKind(a: Membership, b: Membership): boolean {
  return (
    a.ranged.size === b.ranged.size && [...a.ranged].every(each => b.ranged.has(each))
  )
}

/** Lines that make one set of elements another. */
export function linesBetween(table: string, before: Elements, after: Elements): string[] {
  const lines: string[] = []
  for (const [name, wanted] of after) {
    const there = before.get(name) ?? new Set()
    const added = [...wanted].filter(element => !there.has(element))
    const removed = [...there].filter(element => !wanted.has(element))
    // In this order: what comes may overlap what goes.
    if (removed.length > 0)
      lines.push(`delete element inet ${table} ${name} { ${removed.join(', ')} }`)
    if (added.length > 0)
      lines.push(`add element inet ${table} ${name} { ${added.join(', ')} }`)
  }
  return lines
}

/** Lines that make the table anew, in one transaction with taking away the one before. */
export function linesOfTable(
  table: string,
  { families, mode, direct }: VerificationRules,
  { elements, ranged }: Membership,
  counted: ReadonlyMap<string, Counter>,
): string[] {
  const counters = COUNTERS.map(name => {
    const { packets, bytes } = counted.get(name) ?? { packets: 0, bytes: 0 }
    return `counter ${name} { packets ${packets} bytes ${bytes} }`
  })
  return [
    `table inet ${table} {}`,
    `delete table inet ${table}`,
    `table inet ${table} {`,
    ...counters,
    ...families.flatMap(each =>
      linesOfFamily(each, mode, elements, ranged.has(each.encapsulation.family)),
    ),
    ...(families.length === 0
      ? []
      : [
          'chain input {',
          'type filter hook input priority filter - 10; policy accept;',
          ...families.flatMap(({ encapsulation }) => linesOfInput(encapsulation)),
          '}',
        ]),
    ...linesOfPrerouting(families, direct, elements),
    '}',
  ]
}

function linesOfInput({ family, match, fragment }: Encapsulation): string[] {
  return [
    ...(fragment === undefined ? [] : [`${fragment} counter name fragment drop`]),
    `meta nfproto ipv${family} ${match} goto verify${family}`,
  ]
}

function linesOfFamily(
  { encapsulation, subnet }: VerifiedFamily,
  mode: VerificationRules['mode'],
  elements: Elements,
  isRanged: boolean,
): string[] {
  const { family, etherType, header } = encapsulation
  const bits = ADDRESS_BITS[family]
  const outer = SADDR[family]
  const inner = (length: number): string => `@th,${header + SOURCE[family]},${length}`
  const destination = `@th,${header + DESTINATION[family]},${subnet.length}`
  const key = inner(isRanged ? bits : subnet.length)
  const pair = mode === 'strict' ? `${outer} . ${key}` : key
  return [
    ...setOf(
      `pairs${family}`,
      `typeof ${pair};${isRanged ? ' flags interval;' : ''}`,
      elements,
    ),
    ...setOf(`senders${family}`, `type ipv${family}_addr;`, elements),
    ...BLAMED.flatMap(reason => [
      `set ${reason}${family} {`,
      `typeof ${outer} . ${inner(bits)}; size ${MOST_OFFENDERS}; flags dynamic, timeout; timeout ${OFFENDER_TIMEOUT}; counter;`,
      '}',
      `chain ${reason}${family} {`,
      // Two rules: one that finds no room in the set ends there.
      `update @${reason}${family} { ${outer} . ${inner(bits)} }`,
      `counter name ${reason} drop`,
      '}',
    ]),
    `chain verify${family} {`,
    ...(etherType === undefined
      ? []
      : [`@th,${etherType},16 != ${ETHER_TYPE[family]} counter name notIp drop`]),
    `${destination} != ${keyOf(subnet)} goto wrongDestination${family}`,
    `${pair} @pairs${family} return`,
    // One that is too short for a rule is not matched by it, and ends here.
    `${outer} @senders${family} goto wrongSource${family}`,
    `goto ${mode === 'strict' ? 'unknownSender' : 'wrongSource'}${family}`,
    '}',
  ]
}

function setOf(name: string, type: string, elements: Elements): string[] {
  const there = [...(elements.get(name) ?? [])]
  return [
    `set ${name} {`,
    type,
    ...(there.length > 0 ? [`elements = { ${there.join(', ')} };`] : []),
    '}',
  ]
}

/** What has come out of a device, or by the underlay as it is. */
function linesOfPrerouting(
  families: readonly VerifiedFamily[],
  direct: VerificationRules['direct'],
  elements: Elements,
): string[] {
  const lines = [
    ...families.flatMap(linesOfDevice),
    ...(direct === undefined ? [] : linesOfDirect(direct)),
  ]
  if (lines.length === 0) return []
  return [
    ...takenNetworks(direct).flatMap(({ family }) =>
      setOf(`leased${family}`, `type ipv${family}_addr; flags interval;`, elements),
    ),
    'chain prerouting {',
    'type filter hook prerouting priority raw; policy accept;',
    ...lines,
    '}',
  ]
}

/** Another source than one of the network was not looked at outside. */
function linesOfDevice({ encapsulation: { family, open } }: VerifiedFamily): string[] {
  if (open === undefined) return []
  const { device, network } = open
  return [
    `iifname "${device}" ${SADDR[family]} != ${formatPrefix(network)} counter name wrongSource drop`,
  ]
}

function takenNetworks(direct: DirectRules | undefined): readonly Prefix[] {
  return direct?.isTaken === true ? direct.networks : []
}

/** What comes by the underlay must be of a subnet that is leased, and reached by the underlay. */
function linesOfDirect({ device, networks, isTaken, subnets }: DirectRules): string[] {
  return networks.flatMap(network => {
    const { family } = network
    const from = `iifname "${device}" ${SADDR[family]} ${formatPrefix(network)}`
    if (!isTaken)
      return subnets
        .filter(subnet => subnet.family === family)
        .map(
          subnet =>
            `${from} ${DADDR[family]} ${formatPrefix(subnet)} counter name wrongSource drop`,
        )
    return [
      `${from} ${SADDR[family]} != @leased${family} counter name wrongSource drop`,
      `${from} fib saddr . iif oif missing counter name reversePath drop`,
    ]
  })
}
