import { type JsonObject, isJsonObject, lookUp } from './go-json.js'
import {
  type Address,
  type Family,
  containsAddress,
  formatAddress,
  parseAddress,
  parsePrefix,
  sameAddress,
} from './prefix.js'
import type { Entry } from './registry.js'
import { type Subnet, parseSubnetKey } from './subnet-key.js'

/** The host that has a subnet, as its record describes it. */
export interface Holder {
  /** Underlay addresses by which other hosts reach it; one at least, unless a subnet is kept for a host that was never there. */
  readonly publicIp?: Address
  readonly publicIpv6?: Address
  /** '' where the record names none: flannel's udp and alloc. */
  readonly backendType: string
  /** What the backend of that type put there, unchecked. */
  readonly backendData?: unknown
  readonly backendV6Data?: unknown
  /** Our field: the name of the host, which outlives its addresses. flannel writes none. */
  readonly hostId?: string
  /** Our field: addresses besides the public one that the host may send from. */
  readonly sourceIps?: readonly Address[]
}

/** The holder that this host is. */
export type OwnHolder = Holder & { readonly hostId: string }

interface RecordBase {
  readonly key: string
  readonly subnet: Subnet
  readonly holder: Holder
  readonly modRevision: bigint
  readonly createRevision: bigint
}

/** A subnet that the registry takes back unless its lease is renewed. */
export interface Lease extends RecordBase {
  readonly kind: 'lease'
  readonly leaseId: string
}

/** A subnet that an operator pinned to a host: no expiry, never renewed. */
export interface Reservation extends RecordBase {
  readonly kind: 'reservation'
}

export type SubnetRecord = Lease | Reservation

/** Whether two descriptions are of a host at the same addresses. */
export function sameAddresses(a: Holder, b: Holder): boolean {
  return sameAddress(a.publicIp, b.publicIp) && sameAddress(a.publicIpv6, b.publicIpv6)
}

/** A record of ours is below 400 bytes; wireguard's and vxlan's data below 200. */
const MAX_VALUE_BYTES = 16_384

const MAX_SOURCE_IPS = 4
/** What a host id may look like: it is a word in JSON, in keys and in tables. */
export const HOST_ID = /^[A-Za-z0-9._-]{1,64}$/
const BACKEND_TYPE = /^[a-z0-9-]{0,32}$/

/** The value of a record: flannel's fields in flannel's order and spelling, then ours. */
export function formatHolder(holder: Holder): string {
  const {
    publicIp,
    publicIpv6,
    backendType,
    backendData,
    backendV6Data,
    hostId,
    sourceIps,
  } = holder
  return JSON.stringify({
    PublicIP: publicIp === undefined ? '0.0.0.0' : formatAddress(publicIp),
    PublicIPv6: publicIpv6 === undefined ? null : formatAddress(publicIpv6),
    ...(backendType !== '' && { BackendType: backendType }),
    ...(backendData !== undefined && { BackendData: backendData }),
    ...(backendV6Data !== undefined && { BackendV6Data: backendV6Data }),
    ...(hostId !== undefined && { HostID: hostId }),
    ...(sourceIps?.length && { SourceIPs: sourceIps.map(formatAddress) }),
  })
}

/** Reads a record's value. Anybody who may write to etcd may have written it. Throws SyntaxError. */
export function parseHolder(text: string): Holder {
  if (text.length > MAX_VALUE_BYTES)
    throw new SyntaxError(`value of ${text.length} bytes is too large`)
  const value: unknown = JSON.parse(text)
  if (!isJsonObject(value)) throw new SyntaxError('value is not a JSON object')
  const publicIp = readAddress(value, 'PublicIP', 4)
  const publicIpv6 = readAddress(value, 'PublicIPv6', 6)
  const backendType = readText(value, 'BackendType', BACKEND_TYPE) ?? ''
  const backendData = lookUp(value, 'BackendData')
  const backendV6Data = lookUp(value, 'BackendV6Data')
  const hostId = readText(value, 'HostID', HOST_ID)
  const sourceIps = readSourceIps(value)
  // A reservation may be for a host that nobody has seen yet.
  if (publicIp === undefined && publicIpv6 === undefined && hostId === undefined) {
    throw new SyntaxError('neither PublicIP nor PublicIPv6 is an address')
  }
  return {
    ...(publicIp && { publicIp }),
    ...(publicIpv6 && { publicIpv6 }),
    backendType,
    ...(backendData !== undefined && { backendData }),
    ...(backendV6Data !== undefined && { backendV6Data }),
    ...(hostId !== undefined && { hostId }),
    ...(sourceIps.length > 0 && { sourceIps }),
  }
}

/** flannel writes 0.0.0.0 where it has no IPv4 address. */
function readAddress(
  value: JsonObject,
  name: string,
  family: Family,
): Address | undefined {
  const text = lookUp(value, name)
  if (text === undefined || text === '') return undefined
  if (typeof text !== 'string') throw new SyntaxError(`${name} is not a string`)
  const address = parseAddress(text)
  if (address.family !== family)
    throw new SyntaxError(`${name} ${text} is not an IPv${family} address`)
  if (address.value === 0n) return undefined
  if (isUnreachable(address))
    throw new SyntaxError(`${name} ${text} is not the address of one host`)
  return address
}

const UNREACHABLE = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '224.0.0.0/3',
  '::/128',
  '::1/128',
  '::ffff:0:0/96',
  'ff00::/8',
].map(parsePrefix)

/** This network, loopback, IPv4 in IPv6's clothes, multicast, reserved and broadcast: no packet may be sent there. */
function isUnreachable(address: Address): boolean {
  return UNREACHABLE.some(prefix => containsAddress(prefix, address))
}

function readText(value: JsonObject, name: string, pattern: RegExp): string | undefined {
  const text = lookUp(value, name)
  if (text === undefined) return undefined
  if (typeof text === 'string' && pattern.test(text)) return text
  throw new SyntaxError(`${name} is not a word of the kind ${pattern.source}`)
}

function readSourceIps(value: JsonObject): Address[] {
  const list = lookUp(value, 'SourceIPs')
  if (list === undefined) return []
  if (!Array.isArray(list) || list.length > MAX_SOURCE_IPS) {
    throw new SyntaxError(`SourceIPs is not a list of up to ${MAX_SOURCE_IPS} addresses`)
  }
  return list.map((text: unknown) => {
    if (typeof text !== 'string')
      throw new SyntaxError('SourceIPs holds something else than text')
    const address = parseAddress(text)
    if (isUnreachable(address))
      throw new SyntaxError(`SourceIPs: ${text} is not the address of one host`)
    return address
  })
}

/** Reads a key and its value. Throws SyntaxError, which names the key and the reason. */
export function parseSubnetRecord(entry: Entry): SubnetRecord {
  const { key, value, modRevision, createRevision, leaseId } = entry
  const subnet = parseSubnetKey(key)
  let holder: Holder
  try {
    holder = parseHolder(value)
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    throw new SyntaxError(`value of ${key}: ${cause.message}`, { cause })
  }
  const base = { key, subnet, holder, modRevision, createRevision }
  return leaseId === undefined
    ? { kind: 'reservation', ...base }
    : { kind: 'lease', leaseId, ...base }
}

/** The record in an entry; undefined when it cannot be read. */
export function readSubnetRecord(entry: Entry): SubnetRecord | undefined {
  try {
    return parseSubnetRecord(entry)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** The entry that a record was read from. */
export function toEntry(record: SubnetRecord): Entry {
  const { key, holder, createRevision, modRevision } = record
  return {
    key,
    value: formatHolder(holder),
    createRevision,
    modRevision,
    ...(record.kind === 'lease' && { leaseId: record.leaseId }),
  }
}

/**
 * By which people know a host, from its record as JSON: flannel writes 0.0.0.0 where
 * there is no IPv4.
 */
export function publicAddressOf(record: {
  readonly PublicIP: string
  readonly PublicIPv6?: string | null | undefined
}): string {
  const { PublicIP, PublicIPv6 } = record
  return PublicIP === '0.0.0.0' ? (PublicIPv6 ?? PublicIP) : PublicIP
}
