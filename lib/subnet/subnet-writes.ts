import { SubnetError } from './errors.js'
import type { Entry, Guard, Registry, Write } from './registry.js'
import { formatPrefix } from './prefix.js'
import {
  type Subnet,
  configKey,
  formatSubnetKey,
  prefixesOf,
  readSubnetKey,
} from './subnet-key.js'
import { readSubnetRecord } from './subnet-record.js'

/**
 * Guard keys of a dual-stack subnet. Its record's key names both halves
 * together, so that two records could share one half; a claim per half, written
 * in the same transaction and bound to the same lease, keeps each unique among
 * our daemons. A subnet of one family is its own claim.
 */
function claimKeys(prefix: string, subnet: Subnet): string[] {
  const halves = prefixesOf(subnet)
  if (halves.length < 2) return []
  return halves.map(
    half =>
      `${claimsPrefix(prefix)}v${half.family}/${formatPrefix(half).replace('/', '-')}`,
  )
}

export function claimsPrefix(prefix: string): string {
  return `${prefix}/claims/`
}

/** Claims on halves that are there: key, and as value the host id that has it. */
export async function readClaims(
  registry: Registry,
  prefix: string,
  subnet: Subnet,
): Promise<Entry[]> {
  const found: Entry[] = []
  for (const key of claimKeys(prefix, subnet)) {
    const { entry } = await registry.get(key)
    if (entry !== undefined) found.push(entry)
  }
  return found
}

/** The half that a claim is on; undefined for a key that is none. */
export function readClaimedHalf({ key }: Entry): Subnet | undefined {
  const [, name = ''] = /\/claims\/v[46]\/([^/]+)$/.exec(key) ?? []
  return readSubnetKey(name.includes(':') ? `0.0.0.0-0&${name}` : name)
}

/**
 * What must not be there for a subnet to be free.
 *
 * @param own claims that are ours already, from a record that was lost.
 */
export function guardsOfFree(
  prefix: string,
  subnet: Subnet,
  own: readonly Entry[] = [],
): Guard[] {
  const revisions = new Map(own.map(({ key, modRevision }) => [key, modRevision]))
  const keys = [formatSubnetKey(prefix, subnet), ...claimKeys(prefix, subnet)]
  return keys.map(key => ({ key, modRevision: revisions.get(key) ?? 0n }))
}

/**
 * Holds a write to a registry that knows the network. One without a configuration
 * was wiped, and what its operator puts back decides. Throws ERR_SUBNET_CONFIG.
 */
export async function guardOfConfig(registry: Registry, prefix: string): Promise<Guard> {
  const key = configKey(prefix)
  const { entry } = await registry.get(key)
  if (entry !== undefined) return { key, modRevision: entry.modRevision }
  throw new SubnetError(
    'ERR_SUBNET_CONFIG',
    `${key} is gone: etcd was wiped; store the network configuration again`,
  )
}

/**
 * Writes a subnet's record with its claims.
 *
 * @param leaseId what takes them away in the end; undefined for a reservation.
 */
export function putSubnet(
  prefix: string,
  subnet: Subnet,
  record: { readonly value: string; readonly hostId: string },
  leaseId: string | undefined,
): Write[] {
  const bound = leaseId === undefined ? {} : { leaseId }
  return [
    {
      kind: 'put',
      key: formatSubnetKey(prefix, subnet),
      value: record.value,
      ...bound,
    },
    ...claimKeys(prefix, subnet).map(key => ({
      kind: 'put' as const,
      key,
      value: record.hostId,
      ...bound,
    })),
  ]
}

export function deleteSubnet(prefix: string, subnet: Subnet): Write[] {
  const keys = [formatSubnetKey(prefix, subnet), ...claimKeys(prefix, subnet)]
  return keys.map(key => ({ kind: 'delete', key }))
}

/** Deletes a subnet's record if it is that host's lease. A reservation is an operator's. */
export async function releaseSubnet(
  registry: Registry,
  prefix: string,
  hostId: string,
  subnet: Subnet,
): Promise<void> {
  const key = formatSubnetKey(prefix, subnet)
  const { entry } = await registry.get(key)
  if (entry === undefined) return
  const record = readSubnetRecord(entry)
  if (record?.holder.hostId !== hostId || record.kind === 'reservation') return
  await registry.commit(
    [{ key, modRevision: entry.modRevision }],
    deleteSubnet(prefix, subnet),
  )
  await registry.revokeLease(record.leaseId)
}
