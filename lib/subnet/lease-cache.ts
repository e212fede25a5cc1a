import { isJsonObject } from './go-json.js'
import type { LeaseMemory } from './host-lease.js'
import type { Doubt, Orphan } from './lease-table.js'
import type { Entry } from './registry.js'
import { formatSubnet, parseSubnetKey } from './subnet-key.js'
import { formatHolder, parseHolder } from './subnet-record.js'

/**
 * What a daemon knew when it was last in touch with the registry, so that its
 * successor forwards before the registry answers. Times are of the steady clock.
 */
export interface LeaseCache extends LeaseMemory {
  /** The network configuration as it was stored. */
  readonly config: string
  /** `PublicIP` and the like of our own record: with others the cache is of no use. */
  readonly holder: string
}

/**
 * A moment on both clocks. The steady one begins anew at each boot; the time of
 * day outlives it, but may be set.
 */
export interface Moment {
  /** Names the boot that the steady clock belongs to. */
  readonly boot: string
  /** Milliseconds of the steady clock. */
  readonly now: number
  readonly date: Date
}

const VERSION = 3

/** Longer than anything is proven, and a number that JSON has. */
const FOR_EVER_MS = 1e15

export function formatLeaseCache(cache: LeaseCache, { boot, now, date }: Moment): string {
  const { config, held, permitUntil, holder, revision, records } = cache
  return `${JSON.stringify({
    version: VERSION,
    subnet: formatSubnet(held.subnet),
    written: { boot, now, date: date.toISOString() },
    config,
    held: {
      key: held.key,
      createRevision: String(held.createRevision),
      modRevision: String(held.modRevision),
      leaseId: held.leaseId,
      provenAt: held.provenAt,
      isDenied: held.isDenied,
    },
    permitUntil,
    holder,
    revision: String(revision),
    orphans: cache.orphans,
    doubts: cache.doubts.map(({ entry, until }) => ({ entry: toJson(entry), until })),
    records: records.map(toJson),
  })}\n`
}

function toJson(entry: Entry): object {
  const { createRevision, modRevision } = entry
  return {
    ...entry,
    createRevision: String(createRevision),
    modRevision: String(modRevision),
  }
}

/**
 * Reads a cache, with its times on the clock of the present moment: as they are
 * within one boot, else by the time of day. Throws SyntaxError for what no
 * version of ours wrote, or another one did.
 */
export function parseLeaseCache(text: string, present: Moment): LeaseCache {
  const value: unknown = JSON.parse(text)
  if (!isJsonObject(value) || value['version'] !== VERSION) {
    throw new SyntaxError(`not a lease cache of version ${VERSION}`)
  }
  const { config, held, holder } = value
  if (!isJsonObject(held)) throw new SyntaxError('the lease cache lacks the lease')
  const shift = readShift(value['written'], present)
  const key = readText(held['key'])
  const leaseId = held['leaseId']
  return {
    config: readText(config),
    held: {
      key,
      subnet: parseSubnetKey(key),
      createRevision: readRevision(held['createRevision']),
      modRevision: readRevision(held['modRevision']),
      ...(typeof leaseId === 'string' && { leaseId }),
      provenAt: readNumber(held['provenAt']) + shift,
      ...(held['isDenied'] === true && { isDenied: true }),
    },
    permitUntil: readNumber(value['permitUntil']) + shift,
    holder: formatHolder(parseHolder(readText(holder))),
    revision: readRevision(value['revision']),
    records: readList(value['records']).map(readEntry),
    orphans: readList(value['orphans']).map(orphan => readOrphan(orphan, shift)),
    doubts: readList(value['doubts']).map(doubt => readDoubt(doubt, shift)),
  }
}

/**
 * What to add to a time of the steady clock of then, in ms. With a time of day
 * from before the writing nobody knows how long ago that was: for ever.
 */
function readShift(written: unknown, present: Moment): number {
  if (!isJsonObject(written)) throw new SyntaxError('the lease cache lacks its time')
  const [then, date] = [readNumber(written['now']), readDate(written['date'])]
  if (written['boot'] === present.boot) return 0
  const elapsed = present.date.getTime() - date.getTime()
  return elapsed < 0 ? -FOR_EVER_MS : present.now - elapsed - then
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

function readOrphan(value: unknown, shift: number): Orphan {
  if (!isJsonObject(value)) throw new SyntaxError('an orphan of the lease cache is none')
  const { key, keptUntil } = value
  return { key: readText(key), keptUntil: readNumber(keptUntil) + shift }
}

function readDoubt(value: unknown, shift: number): Doubt {
  if (!isJsonObject(value)) throw new SyntaxError('a doubt of the lease cache is none')
  return { entry: readEntry(value['entry']), until: readNumber(value['until']) + shift }
}

function readList(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw new SyntaxError('the lease cache lacks a list')
}

function readText(value: unknown): string {
  if (typeof value === 'string') return value
  throw new SyntaxError('the lease cache lacks a text')
}

function readNumber(value: unknown): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw new SyntaxError('the lease cache lacks a number')
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
