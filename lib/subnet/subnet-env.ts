import {
  FAMILIES,
  type Family,
  type InterfaceAddress,
  type Prefix,
  firstHostAddress,
  formatAddress,
  formatPrefix,
  parseInterfaceAddress,
} from './prefix.js'
import { type Subnet, subnetFromPrefixes, subnetPrefix } from './subnet-key.js'

/** Names of the variables of a family, in flannel's spelling. */
const NAMES = {
  4: { network: 'FLANNEL_NETWORK', subnet: 'FLANNEL_SUBNET' },
  6: { network: 'FLANNEL_IPV6_NETWORK', subnet: 'FLANNEL_IPV6_SUBNET' },
} as const

/** What the container runtime learns from us. */
export interface SubnetEnv {
  readonly networks: readonly Prefix[]
  readonly subnet: Subnet
  readonly mtu: number
  readonly ipMasq: boolean
}

/** flannel's environment file, byte for byte. */
export function formatSubnetEnv({ networks, subnet, mtu, ipMasq }: SubnetEnv): string {
  const lines = networks.flatMap(network => {
    const prefix = subnetPrefix(subnet, network.family)
    if (prefix === undefined) return []
    const names = NAMES[network.family]
    return [
      `${names.network}=${formatPrefix(network)}`,
      `${names.subnet}=${formatAddress(firstHostAddress(prefix))}/${prefix.length}`,
    ]
  })
  return [...lines, `FLANNEL_MTU=${mtu}`, `FLANNEL_IPMASQ=${ipMasq}`, ''].join('\n')
}

/** What an earlier run left. Values that cannot be read count as absent. */
export interface PreviousSubnetEnv {
  readonly networks: readonly Prefix[]
  readonly subnet: Subnet
}

export function parseSubnetEnv(text: string): PreviousSubnetEnv {
  const variables = parseVariables(text)
  const read = (family: Family, which: 'network' | 'subnet'): Prefix[] => {
    const prefix = readPrefix(variables.get(NAMES[family][which]), family)
    return prefix === undefined ? [] : [prefix]
  }
  return {
    networks: FAMILIES.flatMap(family => read(family, 'network')),
    subnet: subnetFromPrefixes(FAMILIES.flatMap(family => read(family, 'subnet'))),
  }
}

/** dotenv lines: comments, `export`, quotes and carriage returns are taken in stride. */
export function parseVariables(text: string): Map<string, string> {
  const variables = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, name, raw] = /^(?:export\s+)?([A-Za-z_]\w*)\s*=(.*)$/.exec(line.trim()) ?? []
    if (name !== undefined && raw !== undefined) variables.set(name, unquote(raw.trim()))
  }
  return variables
}

/** A line that parseVariables, a shell and systemd's EnvironmentFile read alike; of one line, whatever is in it. */
export function formatVariable(name: string, value: string): string {
  const line = value.replaceAll(/[\r\n]+/g, ' ')
  const isPlain = /^[\w./:,@-]*$/.test(line)
  return `${name}=${isPlain ? line : `"${line.replaceAll(/["\\$`]/g, '\\$&')}"`}`
}

/** What stands between quotes, or in front of a comment. */
function unquote(raw: string): string {
  const [, double, single] =
    /^(?:"((?:\\.|[^"\\])*)"|'([^']*)')\s*(?:#.*)?$/.exec(raw) ?? []
  if (double !== undefined) return double.replaceAll(/\\(["\\$`])/g, '$1')
  if (single !== undefined) return single
  const comment = raw.search(/\s#/)
  return comment < 0 ? raw : raw.slice(0, comment).trimEnd()
}

/** A list of ranges, which flannel 0.21 to 0.24 could write, counts as none. */
function readPrefix(text: string | undefined, family: Family): Prefix | undefined {
  if (text === undefined) return undefined
  try {
    const parsed: InterfaceAddress = parseInterfaceAddress(text)
    const { network, length } = parsed
    return parsed.family === family ? { family, network, length } : undefined
  } catch {
    return undefined
  }
}
