import { SubnetError } from './errors.js'
import { type JsonObject, isJsonObject, lookUp, unknownKeys } from './go-json.js'
import {
  ADDRESS_BITS,
  type Address,
  FAMILIES,
  type Family,
  type Prefix,
  containsAddress,
  containsPrefix,
  formatAddress,
  formatPrefix,
  overlaps,
  parseAddress,
  parsePrefix,
  prefixSize,
} from './prefix.js'
import { type Subnet, prefixesOf } from './subnet-key.js'

/** The range of one address family, cut into subnets of one length. */
export interface FamilyConfig {
  readonly network: Prefix
  readonly subnetLength: number
  /** Base addresses of the first and the last subnet that hosts get. */
  readonly subnetMin: bigint
  readonly subnetMax: bigint
}

export interface BackendConfig {
  /** Lower case; flannel's code takes udp when the configuration names none. */
  readonly type: string
  readonly options: JsonObject
}

export interface NetworkConfig {
  /** IPv4 first; at least one. */
  readonly families: readonly FamilyConfig[]
  readonly enableNfTables: boolean
  readonly backend: BackendConfig
  /** A sentence for each value that was worked out rather than given. */
  readonly derived: readonly string[]
  readonly unknownKeys: readonly string[]
}

/** Longest prefix that a host may hold, by family (flannel's rule). */
export const LONGEST_SUBNET: Readonly<Record<Family, number>> = { 4: 30, 6: 126 }

/** What differs between the families: names of keys and flannel's limits. */
interface FamilyRules {
  readonly family: Family
  readonly enable: string
  readonly network: string
  readonly length: string
  readonly min: string
  readonly max: string
  /** Longest Network from which a subnet's length can be derived. */
  readonly longestNetwork: number
  /** The usual subnet, taken when four of them fit. */
  readonly usualSubnet: number
  readonly enabledByDefault: boolean
}

const RULES: Readonly<Record<Family, FamilyRules>> = {
  4: {
    family: 4,
    enable: 'EnableIPv4',
    network: 'Network',
    length: 'SubnetLen',
    min: 'SubnetMin',
    max: 'SubnetMax',
    longestNetwork: 28,
    usualSubnet: 24,
    enabledByDefault: true,
  },
  6: {
    family: 6,
    enable: 'EnableIPv6',
    network: 'IPv6Network',
    length: 'IPv6SubnetLen',
    min: 'IPv6SubnetMin',
    max: 'IPv6SubnetMax',
    longestNetwork: 124,
    usualSubnet: 64,
    enabledByDefault: false,
  },
}

const KEYS = [
  ...FAMILIES.flatMap(family => {
    const { enable, network, length, min, max } = RULES[family]
    return [enable, network, length, min, max]
  }),
  'EnableNFTables',
  'Backend',
]

/** A network must hold so many subnets (flannel's rule). */
const MIN_SUBNET_BITS = 2

/**
 * Reads the network configuration as flannel does, its checks in its order and
 * words, and works out what was left open. Throws ERR_SUBNET_CONFIG.
 */
export function parseNetworkConfig(text: string): NetworkConfig {
  const object = parseObject(text)
  const derived: string[] = []
  const families = FAMILIES.filter(family => {
    const { enable, enabledByDefault } = RULES[family]
    return readBoolean(object, enable, enabledByDefault)
  }).map(family => readFamily(object, RULES[family], derived))
  if (families.length === 0) {
    throw invalid(
      'none defined stack: EnableIPv4 and EnableIPv6 are both false; enable one',
    )
  }
  return {
    families,
    enableNfTables: readBoolean(object, 'EnableNFTables', false),
    backend: readBackend(object, derived),
    derived,
    unknownKeys: unknownKeys(object, KEYS),
  }
}

function invalid(message: string, cause?: unknown): SubnetError {
  return new SubnetError(
    'ERR_SUBNET_CONFIG',
    `network configuration: ${message}`,
    cause === undefined ? undefined : { cause },
  )
}

function parseObject(text: string): JsonObject {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw invalid(`not JSON: ${(cause as Error).message}`, cause)
  }
  if (isJsonObject(value)) return value
  throw invalid('must be a JSON object such as {"Network":"10.5.0.0/16"}')
}

function readFamily(
  object: JsonObject,
  rules: FamilyRules,
  derived: string[],
): FamilyConfig {
  const network = readNetwork(object, rules)
  const subnetLength = readSubnetLength(object, rules, network, derived)
  const size = prefixSize({ family: rules.family, length: subnetLength })
  const end = network.network + prefixSize(network)
  const subnetMin = readBound(object, rules.min, rules, network) ?? {
    family: rules.family,
    value: network.network + size,
  }
  const subnetMax = readBound(object, rules.max, rules, network) ?? {
    family: rules.family,
    value: end - size,
  }
  for (const [name, bound] of [
    [rules.min, subnetMin],
    [rules.max, subnetMax],
  ] as const) {
    if (bound.value % size !== 0n) {
      throw invalid(`${name} is not on a SubnetLen boundary: ${formatAddress(bound)}`)
    }
    if (lookUp(object, name) === undefined) derived.push(explainBound(name, bound, rules))
  }
  if (subnetMin.value > subnetMax.value) {
    const range = `${formatAddress(subnetMin)} > ${formatAddress(subnetMax)}`
    throw invalid(`${rules.min} lies behind ${rules.max}: ${range}`)
  }
  return { network, subnetLength, subnetMin: subnetMin.value, subnetMax: subnetMax.value }
}

function explainBound(name: string, bound: Address, { min }: FamilyRules): string {
  return name === min
    ? `${name} is ${formatAddress(bound)}: the first subnet of a network is never used`
    : `${name} is ${formatAddress(bound)}: the last subnet of the network`
}

/** Ranges whose addresses no container can have, and what they are (RFC 6890). */
const NOT_FOR_HOSTS = (
  [
    ['0.0.0.0/8', 'this network'],
    ['127.0.0.0/8', 'loopback'],
    ['169.254.0.0/16', 'link-local'],
    ['224.0.0.0/3', 'multicast and reserved'],
    ['::/8', 'loopback and reserved'],
    ['fe80::/10', 'link-local'],
    ['ff00::/8', 'multicast'],
  ] as const
).map(([range, what]) => [parsePrefix(range), what] as const)

function readNetwork(object: JsonObject, { network: name, family }: FamilyRules): Prefix {
  const text = lookUp(object, name)
  if (text === undefined || text === '') {
    throw invalid(`please define a correct ${name} parameter in the flannel config`)
  }
  try {
    if (typeof text !== 'string') throw new SyntaxError('it is not a string')
    const prefix = parsePrefix(text)
    if (prefix.family !== family) throw new SyntaxError(`it is not an IPv${family} range`)
    const special = NOT_FOR_HOSTS.find(([range]) => overlaps(range, prefix))
    if (special === undefined) return prefix
    const [range, what] = special
    throw new SyntaxError(`it overlaps ${formatPrefix(range)}, which is ${what}`)
  } catch (cause) {
    throw invalid(
      `${name} is ${JSON.stringify(text)}: ${(cause as Error).message}`,
      cause,
    )
  }
}

function readSubnetLength(
  object: JsonObject,
  rules: FamilyRules,
  network: Prefix,
  derived: string[],
): number {
  const { length: name, longestNetwork, usualSubnet } = rules
  const longestSubnet = LONGEST_SUBNET[rules.family]
  const shortest = network.length + MIN_SUBNET_BITS
  const given = lookUp(object, name) ?? 0
  if (typeof given !== 'number' || !Number.isInteger(given) || given < 0) {
    throw invalid(
      `${name} is ${JSON.stringify(given)}; it must be a whole number such as ${usualSubnet}`,
    )
  }
  if (given > longestSubnet)
    throw invalid(`SubnetLen must be less than /${longestSubnet + 1}`)
  if (given > 0) {
    if (given < shortest)
      throw invalid('network must be able to accommodate at least four subnets')
    return given
  }
  if (network.length > longestNetwork) {
    const what = rules.family === 4 ? 'network' : rules.network
    throw invalid(
      `${what} is too small. Minimum useful network prefix is /${longestNetwork}`,
    )
  }
  const length = Math.max(usualSubnet, shortest)
  const hosts = `${rules.network} is /${network.length}, so each host gets a /${length}`
  derived.push(`${name} is ${length}: ${hosts}`)
  return length
}

/** 0.0.0.0 and :: count as not given, as in flannel. */
function readBound(
  object: JsonObject,
  name: string,
  { network: networkName, family }: FamilyRules,
  network: Prefix,
): Address | undefined {
  const text = lookUp(object, name)
  if (text === undefined || text === '') return undefined
  let address: Address
  try {
    if (typeof text !== 'string') throw new SyntaxError('it is not a string')
    address = parseAddress(text)
  } catch (cause) {
    throw invalid(
      `${name} is ${JSON.stringify(text)}: ${(cause as Error).message}`,
      cause,
    )
  }
  if (address.family === family && address.value === 0n) return undefined
  if (containsAddress(network, address)) return address
  throw invalid(`${name} is not in the range of the ${networkName}`)
}

function readBackend(object: JsonObject, derived: string[]): BackendConfig {
  const backend = lookUp(object, 'Backend')
  if (backend === undefined) {
    derived.push('Backend.Type is udp: the configuration names none')
    return { type: 'udp', options: {} }
  }
  if (!isJsonObject(backend))
    throw invalid('Backend must be an object such as {"Type":"udp"}')
  const type = lookUp(backend, 'Type') ?? ''
  if (typeof type !== 'string')
    throw invalid(`Backend.Type is ${JSON.stringify(type)}, not a string`)
  return { type: type.toLowerCase(), options: backend }
}

function readBoolean(object: JsonObject, name: string, absent: boolean): boolean {
  const value = lookUp(object, name) ?? absent
  if (typeof value === 'boolean') return value
  throw invalid(`${name} is ${JSON.stringify(value)}; it must be true or false`)
}

/** An option of the backend in any spelling, or undefined. */
export function option(options: JsonObject, name: string): unknown {
  return lookUp(options, name)
}

export function familyConfig(
  config: NetworkConfig,
  family: Family,
): FamilyConfig | undefined {
  return config.families.find(({ network }) => network.family === family)
}

/** How many hosts the family has subnets for. */
export function subnetCount({
  network,
  subnetLength,
  subnetMin,
  subnetMax,
}: FamilyConfig): bigint {
  const size = prefixSize({ family: network.family, length: subnetLength })
  return (subnetMax - subnetMin) / size + 1n
}

/** True when a host may hold the prefix: the right length, between SubnetMin and SubnetMax. */
export function isSubnetOf(config: FamilyConfig, prefix: Prefix): boolean {
  return (
    containsPrefix(config.network, prefix) &&
    prefix.length === config.subnetLength &&
    prefix.network >= config.subnetMin &&
    prefix.network <= config.subnetMax
  )
}

/** True when the subnet has one half of each family of the network, and each may be held. */
export function isSubnetOfNetwork(subnet: Subnet, config: NetworkConfig): boolean {
  const halves = prefixesOf(subnet)
  return (
    halves.length === config.families.length &&
    config.families.every(family =>
      halves.some(
        half => half.family === family.network.family && isSubnetOf(family, half),
      ),
    )
  )
}

/** The configuration with every value spelled out, for display. */
export function formatNetworkConfig(config: NetworkConfig): string {
  const families = config.families.map(
    ({ network, subnetLength, subnetMin, subnetMax }) => {
      const rules = RULES[network.family]
      return {
        [rules.network]: formatPrefix(network),
        [rules.length]: subnetLength,
        [rules.min]: formatAddress({ family: network.family, value: subnetMin }),
        [rules.max]: formatAddress({ family: network.family, value: subnetMax }),
      }
    },
  )
  const enabled = (family: Family): boolean => familyConfig(config, family) !== undefined
  const { type, options } = config.backend
  const rest = Object.fromEntries(
    Object.entries(options).filter(([key]) => key.toLowerCase() !== 'type'),
  )
  return JSON.stringify(
    Object.assign({}, { EnableIPv4: enabled(4), EnableIPv6: enabled(6) }, ...families, {
      EnableNFTables: config.enableNfTables,
      Backend: { Type: type, ...rest },
    }),
    null,
    2,
  )
}

/** Bits that tell the hosts of one subnet apart. */
export function hostBits({ network, subnetLength }: FamilyConfig): number {
  return ADDRESS_BITS[network.family] - subnetLength
}
