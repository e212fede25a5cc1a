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

/** A chain in its table, and what makes a rule in it ours: it names one of these. */
export interface OwnNftChain {
  readonly table: NftTable
  readonly chain: NftChain
  readonly marks: readonly string[]
}

const WORD = { 4: 'ip', 6: 'ip6' } as const
const MULTICAST = { 4: '224.0.0.0/4', 6: 'ff00::/8' } as const

/** flannel's names. */
export function firewallTable(family: Family): NftTable {
  return { family: WORD[family], name: `flannel-ipv${family}` }
}

/** Masquerades what leaves the overlay, in flannel's order. */
export function nftMasqueradeChain(
  family: FirewallFamily,
  randomFully: boolean,
): OwnNftChain {
  const { ip, n, s, table, marks } = wordsOf(family)
  const masquerade = `masquerade${randomFully ? ' fully-random' : ''}`
  return {
    table,
    marks,
    chain: {
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
        `${ip} saddr ${n} ${ip} daddr != ${MULTICAST[family.network.family]} ${masquerade}`,
        `${ip} saddr != ${n} ${ip} daddr ${n} ${masquerade}`,
      ],
    },
  }
}

/** Accepts overlay traffic. */
export function nftForwardChain(family: FirewallFamily): OwnNftChain {
  const { ip, n, table, marks } = wordsOf(family)
  return {
    table,
    marks,
    chain: {
      name: 'forward',
      header: [
        'comment "chain to accept flannel traffic"',
        'type filter hook forward priority filter; policy accept;',
      ],
      rules: [`${ip} saddr ${n} accept`, `${ip} daddr ${n} accept`],
    },
  }
}

function wordsOf({ network, subnet }: FirewallFamily) {
  const [n, s] = [formatPrefix(network), formatPrefix(subnet)]
  const { family } = network
  return { ip: WORD[family], n, s, table: firewallTable(family), marks: [n, s] }
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

function find(listed: string, { marks, chain }: OwnNftChain): Found | undefined {
  const { name, head } = chain
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
 * Undefined when the chain is not there or its rules are not in order.
 */
export function printedRules(listed: string, own: OwnNftChain): string | undefined {
  const found = find(listed, own)
  return found?.isInOrder === true
    ? [...found.header, ...found.own].join('\n')
    : undefined
}

/** Lines that put our rules in force in one step, before those of others. */
export function linesToEnsure(listed: string, own: OwnNftChain): string[] {
  const others = find(listed, own)?.others ?? []
  return linesOfChain(own, [...headOf(own), ...own.chain.rules, ...others])
}

/** Lines that take our rules away, and what nobody else uses. */
export function linesToRelease(listed: string, own: OwnNftChain): string[] {
  const found = find(listed, own)
  if (found !== undefined && found.others.length > 0)
    return linesOfChain(own, [...headOf(own), ...found.others])
  const { family, name } = own.table
  const isLast = partsOf(listed).length <= (found === undefined ? 0 : 1)
  if (isLast) return [`delete table ${family} ${name}`]
  return found === undefined ? [] : linesWithoutChain(own)
}

/** Chains, sets and whatever else a table is made of. */
function partsOf(listed: string): string[] {
  return Array.from(listed.matchAll(/^\t\w+ \S+(?: \S+)? \{$/gm), ([part]) => part)
}

/** Whether any rule of ours stands there, a chain of ours without rules of others, or an empty table. */
export function isAnyPresent(listed: string, own: OwnNftChain): boolean {
  const found = find(listed, own)
  return found === undefined
    ? partsOf(listed).length === 0
    : found.own.length > 0 || found.others.length === 0
}

function headOf({ chain: { head } }: OwnNftChain): string[] {
  return head === undefined ? [] : [head]
}

function linesWithoutChain({ table: { family, name }, chain }: OwnNftChain): string[] {
  const place = `${family} ${name} ${chain.name}`
  return [
    `table ${family} ${name} {}`,
    `add chain ${place}`,
    `flush chain ${place}`,
    `delete chain ${place}`,
  ]
}

function linesOfChain(own: OwnNftChain, rules: readonly string[]): string[] {
  const {
    table: { family, name },
    chain,
  } = own
  return [
    // A chain whose hook is another cannot be changed to this one.
    ...linesWithoutChain(own),
    `table ${family} ${name} {`,
    `chain ${chain.name} {`,
    ...chain.header,
    ...rules,
    '}',
    '}',
  ]
}
