import { SubnetError } from './errors.js'
import { isJsonObject } from './go-json.js'
import { type Prefix, formatPrefix, parsePrefix } from './prefix.js'
import type { Entry, Registry } from './registry.js'
import { type Subnet, prefixesOf } from './subnet-key.js'

/** Who held a subnet last, whether or not anybody does now. */
export interface LastHolder {
  readonly subnet: Prefix
  readonly hostId: string
  /** When that host took it first. */
  readonly since: Date
}

/**
 * Marks of who held which subnet, so that a free one that was never used, or the
 * one longest unused, goes to the next newcomer: caches, firewalls and people
 * still know the others. IPv6 networks have so many subnets that none need be
 * used twice.
 */
const FOLDER = 'last-holders'

function keyOf(prefix: string, subnet: Prefix): string {
  return `${prefix}/${FOLDER}/${formatPrefix(subnet).replace('/', '-')}`
}

/** The marks, longest unused first. None when they may not be read: they are a courtesy. */
export async function listLastHolders(
  registry: Registry,
  prefix: string,
): Promise<LastHolder[]> {
  const folder = `${prefix}/${FOLDER}/`
  try {
    const { entries } = await registry.list(folder)
    return entries
      .toSorted((a, b) => (a.modRevision < b.modRevision ? -1 : 1))
      .flatMap(entry => readMark(entry, folder) ?? [])
  } catch (error) {
    if (error instanceof SubnetError) return []
    throw error
  }
}

/** Leaves our mark; without success where we may not write. */
export async function markLastHolder(
  registry: Registry,
  prefix: string,
  subnet: Subnet,
  holder: { readonly hostId: string; readonly now: Date },
): Promise<void> {
  const { hostId, now } = holder
  try {
    for (const half of prefixesOf(subnet).filter(({ family }) => family === 4)) {
      const key = keyOf(prefix, half)
      const { entry } = await registry.get(key)
      const mark = entry && readMark(entry, `${prefix}/${FOLDER}/`)
      const since = mark?.hostId === hostId ? mark.since : now
      // Written again all the same: its revision says how long it is unused.
      const value = JSON.stringify({ HostID: hostId, Since: since.toISOString() })
      await registry.commit([], [{ kind: 'put', key, value }])
    }
  } catch (error) {
    if (!(error instanceof SubnetError)) throw error
  }
}

/** A mark that cannot be read is none. */
function readMark({ key, value }: Entry, folder: string): LastHolder | undefined {
  try {
    const subnet = parsePrefix(key.slice(folder.length).replace('-', '/'))
    const mark: unknown = JSON.parse(value)
    if (!isJsonObject(mark)) return undefined
    const { HostID: hostId, Since: since } = mark
    if (typeof hostId !== 'string' || typeof since !== 'string') return undefined
    const date = new Date(since)
    return Number.isNaN(date.getTime()) ? undefined : { subnet, hostId, since: date }
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}
