import { SubnetError } from './errors.js'
import { type Prefix, formatPrefix, parsePrefix } from './prefix.js'
import type { Registry } from './registry.js'
import { type Subnet, prefixesOf } from './subnet-key.js'

/** Who held a subnet last, whether or not anybody does now. */
export interface LastHolder {
  readonly subnet: Prefix
  readonly hostId: string
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
      .flatMap(({ key, value }) => {
        const subnet = tryParse(key.slice(folder.length))
        return subnet === undefined ? [] : [{ subnet, hostId: value }]
      })
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
  hostId: string,
): Promise<void> {
  const writes = prefixesOf(subnet)
    .filter(({ family }) => family === 4)
    .map(half => ({ kind: 'put' as const, key: keyOf(prefix, half), value: hostId }))
  try {
    if (writes.length > 0) await registry.commit([], writes)
  } catch (error) {
    if (!(error instanceof SubnetError)) throw error
  }
}

function tryParse(name: string): Prefix | undefined {
  try {
    return parsePrefix(name.replace('-', '/'))
  } catch {
    return undefined
  }
}
