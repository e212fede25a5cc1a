import { type Prefix, formatPrefix } from '../subnet/prefix.js'

/**
 * One chain of ours with the rules that belong to this daemon's network, as
 * iptables-save writes them, and the jump that leads into it.
 *
 * The chain has flannel's name, so daemons of several networks on one host
 * share it. Each owns the rules that name its network or subnet and leaves the
 * rest alone (docs/decisions/0003-shared-iptables-chains.md).
 */
export interface OwnChain {
  readonly table: 'nat' | 'filter'
  readonly chain: string
  /** Built-in chain that jumps into ours. */
  readonly parent: string
  readonly jump: string
  /** A rule that all networks share, first in the chain. */
  readonly head?: string
  /** Our rules, in order, one after the other. */
  readonly rules: readonly string[]
  /** What makes a rule ours: it names one of these. */
  readonly marks: readonly string[]
}

export interface FirewallFamily {
  readonly network: Prefix
  readonly subnet: Prefix
}

/** Accepts overlay traffic, since Docker sets the policy of FORWARD to DROP. */
export function forwardChain({ network }: FirewallFamily): OwnChain {
  const comment = '-m comment --comment "flanneld forward"'
  const n = formatPrefix(network)
  return {
    table: 'filter',
    chain: 'FLANNEL-FWD',
    parent: 'FORWARD',
    jump: `${comment} -j FLANNEL-FWD`,
    rules: [`-s ${n} ${comment} -j ACCEPT`, `-d ${n} ${comment} -j ACCEPT`],
    marks: [n],
  }
}

const MULTICAST = { 4: '224.0.0.0/4', 6: 'ff00::/8' } as const

/** Masquerades what leaves the overlay, in flannel's order. */
export function masqueradeChain(
  { network, subnet }: FirewallFamily,
  randomFully: boolean,
): OwnChain {
  const comment = '-m comment --comment "flanneld masq"'
  const n = formatPrefix(network)
  const s = formatPrefix(subnet)
  const masquerade = `${comment} -j MASQUERADE${randomFully ? ' --random-fully' : ''}`
  return {
    table: 'nat',
    chain: 'FLANNEL-POSTRTG',
    parent: 'POSTROUTING',
    jump: `${comment} -j FLANNEL-POSTRTG`,
    // kube-proxy masquerades these already.
    head: `-m mark --mark 0x4000/0x4000 ${comment} -j RETURN`,
    rules: [
      `-s ${s} -d ${n} ${comment} -j RETURN`,
      `-s ${n} -d ${s} ${comment} -j RETURN`,
      // Clients from outside keep their address on the way to our containers.
      `! -s ${n} -d ${s} ${comment} -j RETURN`,
      `-s ${n} ! -d ${MULTICAST[network.family]} ${masquerade}`,
      `! -s ${n} -d ${n} ${masquerade}`,
    ],
    marks: [n, s],
  }
}

/** The rules of one chain in the output of iptables-save, without `-A CHAIN`. */
function rulesOf(saved: string, chain: string): string[] {
  const start = `-A ${chain} `
  return saved
    .split('\n')
    .filter(line => line.startsWith(start))
    .map(line => line.slice(start.length).trimEnd())
}

function isOwn(rule: string, { head, marks }: OwnChain): boolean {
  return rule === head || rule.split(' ').some(word => marks.includes(word))
}

/** Whether any rule of ours stands in the chain, or a jump leads there that nobody else needs. */
export function isPresent(saved: string, own: OwnChain): boolean {
  const rules = rulesOf(saved, own.chain)
  const isShared = rules.some(rule => !isOwn(rule, own))
  const hasJump = rulesOf(saved, own.parent).includes(own.jump)
  return (
    rules.some(rule => rule !== own.head && isOwn(rule, own)) || (hasJump && !isShared)
  )
}

/** True when our rules stand in the chain once, in order, together, and one jump leads there. */
export function isInForce(saved: string, own: OwnChain): boolean {
  const rules = rulesOf(saved, own.chain)
  const jumps = rulesOf(saved, own.parent).filter(rule => rule === own.jump)
  if (jumps.length !== 1) return false
  if (own.head !== undefined && rules[0] !== own.head) return false
  const body = own.head === undefined ? rules : rules.slice(1)
  const start = body.findIndex(rule => isOwn(rule, own))
  const block = start < 0 ? [] : body.slice(start, start + own.rules.length)
  const count = body.filter(rule => isOwn(rule, own)).length
  return (
    count === own.rules.length && block.every((rule, index) => rule === own.rules[index])
  )
}

/**
 * The iptables-restore payload that puts our rules in force in one step.
 * Declaring a chain empties it, so the rules of others in it are written again,
 * behind ours.
 */
export function restorePayload(saved: string, own: OwnChain): string {
  const others = rulesOf(saved, own.chain).filter(rule => !isOwn(rule, own))
  const head = own.head === undefined ? [] : [own.head]
  return payload(saved, own, [...head, ...own.rules, ...others], 1)
}

/** The payload that takes our rules away, and the chain as well when nobody else uses it. */
export function removePayload(saved: string, own: OwnChain): string | undefined {
  if (!saved.includes(`:${own.chain} `)) return undefined
  const others = rulesOf(saved, own.chain).filter(rule => !isOwn(rule, own))
  if (others.length === 0) return payload(saved, own, undefined, 0)
  const head = own.head === undefined ? [] : [own.head]
  return payload(saved, own, [...head, ...others], 1)
}

function payload(
  saved: string,
  { table, chain, parent, jump }: OwnChain,
  rules: readonly string[] | undefined,
  jumps: 0 | 1,
): string {
  const present = rulesOf(saved, parent).filter(rule => rule === jump).length
  // One jump that stands already stays where it is.
  const surplus = present === jumps ? 0 : present
  return [
    `*${table}`,
    `:${chain} - [0:0]`,
    ...(rules ?? []).map(rule => `-A ${chain} ${rule}`),
    ...Array.from({ length: surplus }, () => `-D ${parent} ${jump}`),
    ...(jumps === 1 && present !== 1 ? [`-A ${parent} ${jump}`] : []),
    ...(rules === undefined ? [`-X ${chain}`] : []),
    'COMMIT',
    '',
  ].join('\n')
}
