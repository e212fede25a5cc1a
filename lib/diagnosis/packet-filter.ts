import {
  type Address,
  containsAddress,
  parseAddress,
  parsePrefix,
  sameAddress,
} from '../subnet/prefix.js'

/**
 * What a table of iptables would do with the first packet of a connection, as far
 * as its rules can be understood. A rule that may or may not match is not blamed.
 */

export interface FilteredPacket {
  readonly in: string
  readonly out?: string
  readonly source: Address
  readonly destination: Address
  readonly protocol: 'udp' | 'icmp'
  readonly port?: number
}

/** The rule, or the policy, that a packet meets. */
export interface Refusal {
  readonly chain: string
  /** As iptables-save writes it; undefined for the policy of the chain. */
  readonly rule: string | undefined
}

type Verdict = Refusal | 'accept' | 'return'

const DENIALS: ReadonlySet<string> = new Set(['DROP', 'REJECT'])
const MASQUERADES: ReadonlySet<string> = new Set(['MASQUERADE', 'SNAT'])

/**
 * @param saved a table as iptables-save prints it.
 * @param chain a chain with a policy, such as FORWARD.
 * @returns what drops the packet; undefined when nothing certainly does.
 */
export function findRefusal(
  saved: string,
  chain: string,
  packet: FilteredPacket,
): Refusal | undefined {
  const verdict = walk(start(saved, packet, DENIALS), chain)
  if (typeof verdict === 'object') return verdict
  if (verdict === 'accept') return undefined
  return saved.includes(`:${chain} DROP `) ? { chain, rule: undefined } : undefined
}

/**
 * @param saved the table `nat` as iptables-save prints it.
 * @returns what gives the packet another source; undefined when nothing certainly does.
 */
export function findMasquerade(
  saved: string,
  packet: FilteredPacket,
): Refusal | undefined {
  const verdict = walk(start(saved, packet, MASQUERADES), 'POSTROUTING')
  return typeof verdict === 'object' ? verdict : undefined
}

interface Walk {
  /** What follows the name of the chain in each of its rules. */
  readonly rules: ReadonlyMap<string, readonly string[]>
  readonly packet: FilteredPacket
  /** Targets that are looked for. */
  readonly blamed: ReadonlySet<string>
  /** Of each chain, which is the same from wherever it is jumped to. */
  readonly verdicts: Map<string, Verdict>
}

function start(saved: string, packet: FilteredPacket, blamed: ReadonlySet<string>): Walk {
  const rules = new Map<string, string[]>()
  for (const line of saved.split('\n')) {
    const [, declared] = /^:(\S+) /.exec(line) ?? []
    if (declared !== undefined && !rules.has(declared)) rules.set(declared, [])
    const [, chain, rule] = /^-A (\S+) (.*)$/.exec(line) ?? []
    if (chain !== undefined && rule !== undefined) rules.get(chain)?.push(rule)
  }
  return { rules, packet, blamed, verdicts: new Map() }
}

function walk(at: Walk, chain: string): Verdict {
  const { verdicts } = at
  const known = verdicts.get(chain)
  if (known !== undefined) return known
  // Until it is known: a chain that comes back to itself, which iptables refuses, ends there.
  verdicts.set(chain, 'return')
  const verdict = walkRules(at, chain)
  verdicts.set(chain, verdict)
  return verdict
}

function walkRules(at: Walk, chain: string): Verdict {
  const { rules, packet, blamed } = at
  for (const rule of rules.get(chain) ?? []) {
    const { target, matches } = readRule(rule, packet)
    if (matches === 'no' || target === undefined) continue
    if (target === 'ACCEPT') return 'accept'
    // After one that may match, nothing that follows is certain.
    if (target === 'RETURN') return matches === 'yes' ? 'return' : 'accept'
    if (blamed.has(target)) {
      if (matches === 'yes') return { chain, rule: `-A ${chain} ${rule}` }
    } else if (rules.has(target)) {
      const verdict = walk(at, target)
      if (verdict === 'accept' || (verdict !== 'return' && matches === 'yes'))
        return verdict
    }
  }
  return 'return'
}

type Match = 'yes' | 'no' | 'maybe'

function readRule(
  text: string,
  packet: FilteredPacket,
): { target: string | undefined; matches: Match } {
  const words = text.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? []
  let matches: Match = 'yes'
  let isNegated = false
  for (const [at, option] of words.entries()) {
    const value = words[at + 1] ?? ''
    if (option === '-j' || option === '-g') return { target: value, matches }
    if (option === '!') isNegated = true
    // Values, of which an option has none, one or several, are not options.
    if (!option.startsWith('-')) continue
    if (option !== '-m' && option !== '--comment') {
      const holds = test(option, value, packet)
      if (holds === isNegated) matches = 'no'
      else if (holds === undefined && matches === 'yes') matches = 'maybe'
    }
    isNegated = false
  }
  return { target: undefined, matches }
}

/** Whether a condition holds; undefined when we do not know it. */
function test(
  option: string,
  value: string,
  packet: FilteredPacket,
): boolean | undefined {
  switch (option) {
    case '-s':
      return isIn(value, packet.source)
    case '-d':
      return isIn(value, packet.destination)
    case '-i':
      return isInterface(value, packet.in)
    case '-o':
      return packet.out !== undefined && isInterface(value, packet.out)
    case '-p':
      return value === packet.protocol || value === 'all'
    case '--dport':
    case '--dports':
      return value
        .split(',')
        .some(part => packet.port !== undefined && isInRange(part, packet.port))
    case '--ctstate':
    case '--state':
      return value.split(',').includes('NEW')
    case '--dst-type':
      return value === 'LOCAL' ? packet.out === undefined : undefined
    default:
      return undefined
  }
}

function isIn(text: string, address: Address): boolean | undefined {
  try {
    return text.includes('/')
      ? containsAddress(parsePrefix(text), address)
      : sameAddress(parseAddress(text), address)
  } catch {
    return undefined
  }
}

function isInterface(pattern: string, name: string): boolean {
  return pattern.endsWith('+') ? name.startsWith(pattern.slice(0, -1)) : pattern === name
}

function isInRange(range: string, port: number): boolean {
  const [first = '', last = first] = range.split(':')
  return Number(first) <= port && port <= Number(last)
}
