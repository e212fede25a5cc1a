/**
 * The rules of firewall-rules.ts in nftables: flannel's tables, chains and words,
 * with the meaning that its rules have in iptables. Pure text of nft(8).
 *
 * Daemons of several networks on one host share the chains, as in iptables: each
 * owns the rules that name its network or subnet.
 */
import type { NftTable } from '../linux/nft.js'
import { type Family, formatPrefix } from '../subnet/prefix.js'
import type { FirewallFamily } from './firewall-rules.js'

export interface NftChain {
  readonly name: string
  /** What it is for, and where the kernel calls it. */
  readonly header: readonly string[]
  /** A rule that all networks share, first in the chain. */
  readonly head?: string
  /** Ours, in order, one after the other. */
  readonly rules: readonly string[]
}

/** The chains of one family, and what makes a rule in them ours: it names one of these. */
export interface NftChains {
  readonly table: NftTable
  readonly chains: readonly NftChain[]
  readonly marks: readonly string[]
}

const WORD = { 4: 'ip', 6: 'ip6' } as const
const MULTICAST = { 4: '224.0.0.0/4', 6: 'ff00::/8' } as const

/** flannel's names. */
export function firewallTable(family: Family): NftTable {
  return { family: WORD[family], name: `flannel-ipv${family}` }
}

export function nftChains(
  { network, subnet }: FirewallFamily,
  wanted: {
    readonly forward: boolean
    readonly masquerade: boolean
    readonly randomFully: boolean
  },
): NftChains {
  const { family } = network
  const ip = WORD[family]
  const [n, s] = [formatPrefix(network), formatPrefix(subnet)]
  const masquerade = `masquerade${wanted.randomFully ? ' fully-random' : ''}`
  const postrouting: NftChain = {
    name: 'postrtg',
    header: [
      'comment "chain to manage traffic masquerading by flannel"',
      'type nat hook postrouting priority srcnat; policy accept;',
    ],
    // kube-proxy masquerades these already.
    head: 'meta mark & 0x00004000 == 0x00004000 return',
    rules: [
      `${ip} saddr ${s} ${ip} daddr ${n} return`,
      `${ip} saddr ${n} ${ip} daddr ${s} return`,
      // Clients from outside keep their address on the way to our containers.
      `${ip} saddr != ${n} ${ip} daddr ${s} return`,
      `${ip} saddr ${n} ${ip} daddr != ${MULTICAST[family]} ${masquerade}`,
      `${ip} saddr != ${n} ${ip} daddr ${n} ${masquerade}`,
    ],
  }
  const forward: NftChain = {
    name: 'forward',
    header: [
      'comment "chain to accept flannel traffic"',
      'type filter hook forward priority filter; policy accept;',
    ],
    rules: [`${ip} saddr ${n} accept`, `${ip} daddr ${n} accept`],
  }
  return {
    table: firewallTable(family),
    chains: [
      ...(wanted.masquerade ? [postrouting] : []),
      ...(wanted.forward ? [forward] : []),
    ],
    marks: [n, s],
  }
}

/** The lines of a chain in what `nft list table` prints; undefined when it is not there. */
function linesOf(listed: string, chain: string): string[] | undefined {
  const lines = listed.split('\n').map(line => line.trim())
  const start = lines.indexOf(`chain ${chain} {`)
  return start < 0 ? undefined : lines.slice(start + 1, lines.indexOf('}', start))
}

function isHeader(line: string): boolean {
  return /^(type|comment) /.test(line)
}

/** kube-proxy's mark, in whatever way it is printed. */
function isHead(rule: string): boolean {
  return /^(meta )?mark .*0x0*4000 return$/.test(rule)
}

/** A chain as it is: whose rules are where. */
interface Found {
  readonly header: readonly string[]
  readonly own: readonly string[]
  readonly others: readonly string[]
  /** Ours stand together, behind the head alone. */
  readonly isInOrder: boolean
}

function find(
  listed: string,
  { marks }: NftChains,
  { name, head }: NftChain,
): Found | undefined {
  const lines = linesOf(listed, name)
  if (lines === undefined) return undefined
  const rules = lines.filter(line => !isHeader(line))
  const isOwn = (rule: string): boolean =>
    rule.split(' ').some(word => marks.includes(word))
  const own = rules.filter(isOwn)
  const heads = rules.filter(isHead)
  const start = rules.findIndex(isOwn)
  return {
    header: lines.filter(isHeader),
    own,
    others: rules.filter(rule => !isOwn(rule) && !isHead(rule)),
    isInOrder:
      heads.length === (head === undefined ? 0 : 1) &&
      (head === undefined || isHead(rules[0] ?? '')) &&
      rules.slice(start, start + own.length).every(isOwn),
  }
}

/**
 * Ours as nft(8) prints them, to know them by: each version has its own way.
 * Undefined when a chain is not there or its rules are not in order.
 */
export function printedRules(listed: string, own: NftChains): string | undefined {
  const found = own.chains.map(chain => find(listed, own, chain))
  if (!found.every(each => each?.isInOrder === true)) return undefined
  return found
    .flatMap(each => (each === undefined ? [] : [...each.header, ...each.own]))
    .join('\n')
}

/** Lines that put our rules in force in one step, before those of others. */
export function linesToEnsure(listed: string, own: NftChains): string[] {
  return own.chains.flatMap(chain => {
    const found = find(listed, own, chain)
    const head = chain.head === undefined ? [] : [chain.head]
    return linesOfChain(own.table, chain, [
      ...head,
      ...chain.rules,
      ...(found?.others ?? []),
    ])
  })
}

/** Lines that take our rules away, and the table as well when nobody else uses it. */
export function linesToRelease(listed: string, own: NftChains): string[] {
  const { family, name } = own.table
  const kept = own.chains.flatMap(chain => {
    const others = find(listed, own, chain)?.others ?? []
    return others.length === 0 ? [] : [{ chain, others }]
  })
  if (kept.length === 0) return [`delete table ${family} ${name}`]
  return kept.flatMap(({ chain, others }) =>
    linesOfChain(own.table, chain, [
      ...(chain.head === undefined ? [] : [chain.head]),
      ...others,
    ]),
  )
}

/** Whether any rule of ours stands there, or a table that nobody else uses. */
export function isAnyPresent(listed: string, own: NftChains): boolean {
  const found = own.chains.flatMap(chain => find(listed, own, chain) ?? [])
  return (
    found.some(each => each.own.length > 0) ||
    found.every(each => each.others.length === 0)
  )
}

function linesOfChain(
  { family, name }: NftTable,
  chain: NftChain,
  rules: readonly string[],
): string[] {
  return [
    `table ${family} ${name} {}`,
    // A chain whose hook is another cannot be changed to this one.
    `add chain ${family} ${name} ${chain.name}`,
    `flush chain ${family} ${name} ${chain.name}`,
    `delete chain ${family} ${name} ${chain.name}`,
    `table ${family} ${name} {`,
    `chain ${chain.name} {`,
    ...chain.header,
    ...rules,
    '}',
    '}',
  ]
}
