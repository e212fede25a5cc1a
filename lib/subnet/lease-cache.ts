import type { HeldLease } from './acquire-lease.js'
import { isJsonObject } from './go-json.js'
import type { Entry } from './registry.js'
import { formatSubnet, parseSubnetKey } from './subnet-key.js'

/**
 * What a daemon knew when it was last in touch with the registry, so that its
 * successor forwards before the registry answers. Times are wall-clock, since
 * they outlive a reboot.
 */
export interface LeaseCache {
  /** The network configuration as it was stored. */
  readonly config: string
  readonly held: Omit<HeldLease, 'provenAt'>
  readonly provenAt: Date
  /** When forwarding was allowed until. */
  readonly permitUntil: Date
  /** `PublicIP` and the like of our own record: with others the cache is of no use. */
  readonly holder: string
  /** Every record, ours included. */
  readonly records: readonly Entry[]
}

const VERSION = 1

export function formatLeaseCache(cache: LeaseCache): string {
  const { config, held, provenAt, permitUntil, holder, records } = cache
  return `${JSON.stringify({
    version: VERSION,
    subnet: formatSubnet(held.subnet),
    config,
    held: {
      key: held.key,
      createRevision: String(held.createRevision),
      leaseId: held.leaseId,
    },
    provenAt: provenAt.toISOString(),
    permitUntil: permitUntil.toISOString(),
    holder,
    records: records.map(entry => ({
      ...entry,
      createRevision: String(entry.createRevision),
      modRevision: String(entry.modRevision),
    })),
  })}\n`
}

/** Throws SyntaxError for what no version of ours wrote, or another one did. */
export function parseLeaseCache(text: string): LeaseCache {
  const value: unknown = JSON.parse(text)
  if (!isJsonObject(value) || value['version'] !== VERSION) {
    throw new SyntaxError(`not a lease cache of version ${VERSION}`)
  }
  const { config, held, holder, records } = value
  if (!isJsonObject(held) || !Array.isArray(records))
    throw new SyntaxError('the lease cache is incomplete')
  const key = readText(held['key'])
  const leaseId = held['leaseId']
  return {
    config: readText(config),
    held: {
      key,
      subnet: parseSubnetKey(key),
      createRevision: readRevision(held['createRevision']),
      ...(typeof leaseId === 'string' && { leaseId }),
    },
    provenAt: readDate(value['provenAt']),
    permitUntil: readDate(value['permitUntil']),
    holder: readText(holder),
    records: records.map(readEntry),
  }
}

function readEntry(value: unknown): Entry {
  if (!isJsonObject(value)) throw new SyntaxError('a record of the lease cache is none')
  const { leaseId } = value
  return {
    key: readText(value['key']),
    value: readText(value['value']),
    createRevision: readRevision(value['createRevision']),
    modRevision: readRevision(value['modRevision']),
    ...(typeof leaseId === 'string' && { leaseId }),
  }
}

function readText(value: unknown): string {
  if (typeof value === 'string') return value
  throw new SyntaxError('the lease cache lacks a text')
}

function readRevision(value: unknown): bigint {
  if (typeof value === 'string' && /^\d{1,19}$/.test(value)) return BigInt(value)
  throw new SyntaxError('the lease cache lacks a revision')
}

function readDate(value: unknown): Date {
  const date = new Date(readText(value))
  if (Number.isNaN(date.getTime())) throw new SyntaxError('the lease cache lacks a time')
  return date
}
