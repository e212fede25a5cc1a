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
  /** Chains that jump into ours. */
  readonly parents: readonly Parent[]
  readonly jump: string
  /** A rule that all networks share, first in the chain. */
  readonly head?: string
  /** Our rules, in order, one after the other. */
  readonly rules: readonly string[]
  /** What makes a rule ours: it names one of these. */
  readonly marks: readonly string[]
}

export interface Parent {
  readonly chain: string
  /**
   * Another program's, which may not be there. Its own last word comes after ours:
   * an unconditional RETURN at its end.
   */
  readonly isOthers: boolean
}

function builtIn(chain: string): Parent {
  return { chain, isOthers: false }
}

/**
 * Where Docker leaves room for others (since 17.06), before all that it drops
 * itself: what it forbids to its own ports must not hold for the overlay.
 */
const DOCKER_USER: Parent = { chain: 'DOCKER-USER', isOthers: true }

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
    parents: [builtIn('FORWARD'), DOCKER_USER],
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
    parents: [builtIn('POSTROUTING')],
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

function hasChain(saved: string, chain: string): boolean {
  return saved.includes(`:${chain} `)
}

/** Those that are there. */
function parentsIn(saved: string, { parents }: OwnChain): Parent[] {
  return parents.filter(({ chain, isOthers }) => !isOthers || hasChain(saved, chain))
}

/** Whether packets are forwarded only if a rule of iptables says so, whatever nftables says. */
export function isForwardDenied(saved: string): boolean {
  return saved.includes(':FORWARD DROP ') || hasChain(saved, DOCKER_USER.chain)
}

/**
 * Addresses of containers to which Docker (since 28) refuses packets from outside
 * their bridge, before any rule of ours: `-t raw`.
 */
export function directAccessDrops(saved: string): string[] {
  return rulesOf(saved, 'PREROUTING').flatMap(rule => {
    const [, address] =
      /^-d ([\da-f.:]+)(?:\/(?:32|128))? ! -i \S+ (?:.* )?-j DROP$/.exec(rule) ?? []
    return address === undefined ? [] : [address]
  })
}

function isOwn(rule: string, { head, marks }: OwnChain): boolean {
  return rule === head || rule.split(' ').some(word => marks.includes(word))
}

/** Whether any rule of ours stands in the chain, or a jump leads there that nobody else needs. */
export function isPresent(saved: string, own: OwnChain): boolean {
  const rules = rulesOf(saved, own.chain)
  const isShared = rules.some(rule => !isOwn(rule, own))
  const hasJump = own.parents.some(({ chain }) =>
    rulesOf(saved, chain).includes(own.jump),
  )
  return (
    rules.some(rule => rule !== own.head && isOwn(rule, own)) || (hasJump && !isShared)
  )
}

/** One jump, and nothing before it that lets no packet come so far. */
function isJumpRight(saved: string, { jump }: OwnChain, parent: Parent): boolean {
  const rules = rulesOf(saved, parent.chain)
  const end = parent.isOthers ? rules.indexOf(LAST_WORD) : -1
  const at = rules.indexOf(jump)
  return at >= 0 && rules.lastIndexOf(jump) === at && (end < 0 || at < end)
}

const LAST_WORD = '-j RETURN'

/** True when our rules stand in the chain once, in order, together, and one jump of each parent leads there. */
export function isInForce(saved: string, own: OwnChain): boolean {
  const rules = rulesOf(saved, own.chain)
  if (!parentsIn(saved, own).every(parent => isJumpRight(saved, own, parent)))
    return false
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
  return payload(own, [...head, ...own.rules, ...others], linesToJump(saved, own))
}

/** The payload that takes our rules away, and the chain as well when nobody else uses it. */
export function removePayload(saved: string, own: OwnChain): string | undefined {
  if (!hasChain(saved, own.chain)) return undefined
  const others = rulesOf(saved, own.chain).filter(rule => !isOwn(rule, own))
  if (others.length === 0) return payload(own, undefined, linesNotToJump(saved, own))
  const head = own.head === undefined ? [] : [own.head]
  return payload(own, [...head, ...others], linesToJump(saved, own))
}

/** A jump that stands right stays where it is. */
function linesToJump(saved: string, own: OwnChain): string[] {
  const { jump } = own
  return parentsIn(saved, own).flatMap(parent => {
    if (isJumpRight(saved, own, parent)) return []
    const { chain, isOthers } = parent
    const others = rulesOf(saved, chain).filter(rule => rule !== jump)
    const end = isOthers ? others.indexOf(LAST_WORD) : -1
    return [
      ...linesNotToJump(saved, { ...own, parents: [parent] }),
      end < 0 ? `-A ${chain} ${jump}` : `-I ${chain} ${end + 1} ${jump}`,
    ]
  })
}

function linesNotToJump(saved: string, { parents, jump }: OwnChain): string[] {
  return parents.flatMap(({ chain }) =>
    rulesOf(saved, chain)
      .filter(rule => rule === jump)
      .map(() => `-D ${chain} ${jump}`),
  )
}

/** @param rules of the chain; undefined when it goes. */
function payload(
  { table, chain }: OwnChain,
  rules: readonly string[] | undefined,
  jumps: readonly string[],
): string {
  return [
    `*${table}`,
    `:${chain} - [0:0]`,
    ...(rules ?? []).map(rule => `-A ${chain} ${rule}`),
    ...jumps,
    ...(rules === undefined ? [`-X ${chain}`] : []),
    'COMMIT',
    '',
  ].join('\n')
}
