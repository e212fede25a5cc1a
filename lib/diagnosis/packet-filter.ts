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

/** A table as the program that goes with it prints it: iptables-save, ip6tables-legacy-save … */
export interface SavedTable {
  /** That changes it, such as iptables-nft. */
  readonly program: string
  readonly family: 4 | 6
  readonly text: string
}

/** The rule, or the policy, that a packet meets. */
export interface Refusal {
  readonly program: string
  readonly chain: string
  /** As iptables-save writes it; undefined for the policy of the chain. */
  readonly rule: string | undefined
}

type Verdict = Omit<Refusal, 'program'> | 'accept' | 'return'

const DENIALS: ReadonlySet<string> = new Set(['DROP', 'REJECT'])
const MASQUERADES: ReadonlySet<string> = new Set(['MASQUERADE', 'SNAT'])

/**
 * @param tables of each kind `filter`; those of the packet's family count.
 * @param chain a chain with a policy, such as FORWARD.
 * @returns what drops the packet; undefined when nothing certainly does.
 */
export function findRefusal(
  tables: readonly SavedTable[],
  chain: string,
  packet: FilteredPacket,
): Refusal | undefined {
  return firstOf(tables, packet, ({ program, text }) => {
    const verdict = walk(start(text, packet, DENIALS), chain)
    if (typeof verdict === 'object') return { program, ...verdict }
    if (verdict === 'accept' || !text.includes(`:${chain} DROP `)) return undefined
    return { program, chain, rule: undefined }
  })
}

/**
 * @param tables of each kind `nat`; those of the packet's family count.
 * @returns what gives the packet another source; undefined when nothing certainly does.
 */
export function findMasquerade(
  tables: readonly SavedTable[],
  packet: FilteredPacket,
): Refusal | undefined {
  return firstOf(tables, packet, ({ program, text }) => {
    const verdict = walk(start(text, packet, MASQUERADES), 'POSTROUTING')
    return typeof verdict === 'object' ? { program, ...verdict } : undefined
  })
}

/** Rules of the one kind are not seen by the other, and each judges packets. */
function firstOf(
  tables: readonly SavedTable[],
  { source }: FilteredPacket,
  find: (table: SavedTable) => Refusal | undefined,
): Refusal | undefined {
  for (const table of tables) {
    const refusal = table.family === source.family ? find(table) : undefined
    if (refusal !== undefined) return refusal
  }
  return undefined
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
      return value === 'all' || namesOf(packet).includes(value)
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

/** As iptables-save and ip6tables-save write the packet's protocol. */
function namesOf({ protocol, source }: FilteredPacket): readonly string[] {
  return protocol === 'icmp' && source.family === 6 ? ['ipv6-icmp', 'icmpv6'] : [protocol]
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
