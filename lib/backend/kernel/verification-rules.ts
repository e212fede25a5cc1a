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
  formatAddress,
  formatPrefix,
} from '../../subnet/prefix.js'

/** Where the parts of an inner packet are, in bits of the outer transport header. */
export interface Encapsulation {
  /** Outer and inner family. */
  readonly family: Family
  /** What is one of ours. */
  readonly match: string
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
  return {
    family,
    match: `meta nfproto ipv${family} udp dport ${port} @th,${UDP_BITS + 32},24 ${vni}`,
    etherType: frame + 96,
    header: frame + ETHERNET_BITS,
  }
}

const ETHER_TYPE = { 4: '0x0800', 6: '0x86dd' } as const

/** RFC 791 and RFC 8200: bits of the header before its addresses. */
const SOURCE = { 4: 96, 6: 64 } as const
const DESTINATION = { 4: 128, 6: 192 } as const

const SADDR = { 4: 'ip saddr', 6: 'ip6 saddr' } as const

/** Why a packet is dropped: names of counters, and of the sets of those who sent it. */
export const BLAMED = ['unknownSender', 'wrongSource', 'wrongDestination'] as const
export const COUNTERS = ['notIp', ...BLAMED, 'reversePath'] as const

/** Offenders that are remembered of each reason and family, for so long. */
const MOST_OFFENDERS = 64
const OFFENDER_TIMEOUT = '1h'

/** More elements for one remote are left out: its subnet is far larger than the others. */
const MOST_ELEMENTS = 4096

export interface VerifiedFamily {
  readonly encapsulation: Encapsulation
  /** Of this host. */
  readonly subnet: Prefix
}

export interface VerificationRules {
  readonly families: readonly VerifiedFamily[]
  /** `strict`: outer and inner source belong together; `inner`: the inner one alone. */
  readonly mode: 'strict' | 'inner'
  /** Networks whose packets come without encapsulation, and by what device. */
  readonly direct:
    { readonly device: string; readonly networks: readonly Prefix[] } | undefined
}

/** A host that may send, and what. */
export interface Sender {
  readonly addresses: readonly Address[]
  readonly subnets: readonly Prefix[]
}

/** Elements by name of their set. */
export type Elements = ReadonlyMap<string, ReadonlySet<string>>

/** Sets are looked up by whole bytes: fewer lengths have more elements. */
function keyBits({ length }: Prefix): number {
  return Math.ceil(length / 8) * 8
}

/** What is to be in the sets, so that these senders are let in. */
export function elementsOf(
  { families, mode }: Pick<VerificationRules, 'families' | 'mode'>,
  senders: readonly Sender[],
): Elements {
  const elements = new Map<string, Set<string>>()
  for (const { encapsulation, subnet: own } of families) {
    const { family } = encapsulation
    const [pairs, known] = [new Set<string>(), new Set<string>()]
    elements.set(`pairs${family}`, pairs)
    elements.set(`senders${family}`, known)
    for (const { addresses, subnets } of senders) {
      const outer = addresses
        .filter(address => address.family === family)
        .map(formatAddress)
      for (const address of outer) known.add(address)
      for (const subnet of subnets) {
        if (subnet.family !== family) continue
        for (const inner of innerKeys(subnet, keyBits(own)))
          if (mode === 'inner') pairs.add(inner)
          else for (const address of outer) pairs.add(`${address} . ${inner}`)
      }
    }
  }
  return elements
}

/** The first `bits` of every address of a subnet. A smaller one counts for all that share them. */
function innerKeys({ family, network, length }: Prefix, bits: number): string[] {
  const count = 2 ** Math.max(0, bits - length)
  if (count > MOST_ELEMENTS) return []
  const first = network >> BigInt(ADDRESS_BITS[family] - bits)
  return Array.from(
    { length: count },
    (_, index) => `0x${(first + BigInt(index)).toString(16)}`,
  )
}

/** Lines that make one set of elements another. */
export function linesBetween(table: string, before: Elements, after: Elements): string[] {
  const lines: string[] = []
  for (const [name, wanted] of after) {
    const there = before.get(name) ?? new Set()
    const added = [...wanted].filter(element => !there.has(element))
    const removed = [...there].filter(element => !wanted.has(element))
    if (added.length > 0)
      lines.push(`add element inet ${table} ${name} { ${added.join(', ')} }`)
    if (removed.length > 0)
      lines.push(`delete element inet ${table} ${name} { ${removed.join(', ')} }`)
  }
  return lines
}

/** Lines that make the table anew, in one transaction with taking away the one before. */
export function linesOfTable(
  table: string,
  { families, mode, direct }: VerificationRules,
  elements: Elements,
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
    ...families.flatMap(each => linesOfFamily(each, mode, elements)),
    ...(families.length === 0
      ? []
      : [
          'chain input {',
          'type filter hook input priority filter - 10; policy accept;',
          ...families.map(
            ({ encapsulation: { match, family } }) => `${match} goto verify${family}`,
          ),
          '}',
        ]),
    ...(direct === undefined ? [] : linesOfDirect(direct)),
    '}',
  ]
}

function linesOfFamily(
  { encapsulation, subnet }: VerifiedFamily,
  mode: VerificationRules['mode'],
  elements: Elements,
): string[] {
  const { family, etherType, header } = encapsulation
  const bits = ADDRESS_BITS[family]
  const outer = SADDR[family]
  const inner = (length: number): string => `@th,${header + SOURCE[family]},${length}`
  const destination = `@th,${header + DESTINATION[family]},${subnet.length}`
  const own = `0x${(subnet.network >> BigInt(bits - subnet.length)).toString(16)}`
  const key = inner(keyBits(subnet))
  const pair = mode === 'strict' ? `${outer} . ${key}` : key
  return [
    ...setOf(`pairs${family}`, `typeof ${pair}`, elements),
    ...setOf(`senders${family}`, `type ipv${family}_addr`, elements),
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
    `${destination} != ${own} goto wrongDestination${family}`,
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
    `${type};`,
    ...(there.length > 0 ? [`elements = { ${there.join(', ')} };`] : []),
    '}',
  ]
}

/** What comes by the underlay must be of a host that is reached by it. */
function linesOfDirect({
  device,
  networks,
}: NonNullable<VerificationRules['direct']>): string[] {
  return [
    'chain prerouting {',
    'type filter hook prerouting priority raw; policy accept;',
    ...networks.map(
      network =>
        `iifname "${device}" ${SADDR[network.family]} ${formatPrefix(network)} fib saddr . iif oif missing counter name reversePath drop`,
    ),
    '}',
  ]
}
