import type { Logger } from 'pino'
import { pickSubnet } from './allocate.js'
import { SubnetError, isSubnetError } from './errors.js'
import { type LastHolder, listLastHolders, markLastHolder } from './last-holders.js'
import { LeaseTable } from './lease-table.js'
import { unlessAborted } from './loops.js'
import { type NetworkConfig, isSubnetOf, isSubnetOfNetwork } from './network-config.js'
import { type WhoWeAre, findOwnRecord } from './own-record.js'
import { type Prefix, samePrefix } from './prefix.js'
import { type RefuseClone, refuseClone } from './refuse-clone.js'
import type { Entry } from './registry.js'
import {
  type Subnet,
  formatSubnet,
  formatSubnetKey,
  readSubnetKey,
  sameSubnet,
  subnetFromPrefixes,
  subnetPrefix,
  subnetsPrefix,
} from './subnet-key.js'
import { type Lease, type SubnetRecord, formatHolder } from './subnet-record.js'
import {
  claimsPrefix,
  deleteSubnet,
  guardOfConfig,
  guardsOfFree,
  putSubnet,
  readClaimedHalf,
} from './subnet-writes.js'

/** Lost races before we give up for now; each round sees what the winners took. */
const MAX_ROUNDS = 50

/** Hosts that lost a race wait up to this long, so that they do not clash again. */
const RACE_JITTER_MS = 50

export interface AcquireLease extends WhoWeAre, RefuseClone {
  /** Clean etcd prefix such as /coreos.com/network. */
  readonly prefix: string
  readonly config: NetworkConfig
  /** Subnets of other hosts as far as we know, also if the registry has forgotten them. */
  readonly believed?: readonly Subnet[]
  /** An order: the subnet to take, and none else. */
  readonly wanted?: Subnet | undefined
  /** An order: a subnet not to take. */
  readonly unwanted?: Subnet | undefined
  /** The record that this host made last: ours, whatever somebody has written into it. */
  readonly made?: Pick<HeldLease, 'key' | 'createRevision' | 'leaseId'> | undefined
  /** Before a newcomer picks a subnet, others get this long to put their records back. */
  readonly settleMs: number
}

/** Our own record, as we last wrote or saw it. */
export interface HeldLease {
  readonly key: string
  readonly subnet: Subnet
  /** Revision at which the record was made: a registry that has another was wiped or restored. */
  readonly createRevision: bigint
  /** Revision at which it was written last, as we know it: a record with an older one is from a backup. */
  readonly modRevision: bigint
  /** Absent for a reservation, which does not expire. */
  readonly leaseId?: string
  /** Clock time of the last word that the lease is good, in ms. */
  readonly provenAt: number
  /** The registry has answered since, without this record, and it could not be put back yet. */
  readonly isDenied?: boolean
}

/**
 * Takes a subnet for this host: the record that is ours already, else the
 * subnet that we held last, else a free one. Every write is a compare-and-swap;
 * a lost race means choosing again.
 *
 * Throws ERR_SUBNET_EXHAUSTED when no subnet is free, ERR_SUBNET_CONFIG when the
 * registry has no network configuration, ERR_HOST_CLONED when another living
 * host has our id.
 */
export async function acquireLease(asked: AcquireLease): Promise<HeldLease> {
  const options = { ...asked, previous: usablePrevious(asked) }
  const { registry, prefix, holder, clock, signal } = options
  let settled = options.settleMs === 0
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const { records, ...place } = await look(options)
    const fitting = records.filter(({ subnet }) =>
      isSubnetOfNetwork(subnet, options.config),
    )
    const own = findOwnRecord(fitting, options)
    if (own === undefined && (await giveBack(records, options))) continue
    if (own === undefined && !settled && options.previous === undefined) {
      await clock.sleep(options.settleMs, signal)
      signal?.throwIfAborted()
      settled = true
      continue
    }
    const held =
      own === undefined ? await create(place, options) : await reuse(own, place, options)
    if (held !== undefined) {
      await markLastHolder(registry, prefix, held.subnet, {
        hostId: holder.hostId,
        now: clock.date(),
      })
      return held
    }
    await clock.sleep(clock.random() * RACE_JITTER_MS, signal)
    signal?.throwIfAborted()
  }
  throw new SubnetError(
    'ERR_SUBNET_TAKEN',
    `other hosts were faster ${MAX_ROUNDS} times while taking a subnet`,
  )
}

/** The subnet that we held last, if it may be held again. */
function usablePrevious({
  previous,
  unwanted,
  config,
}: AcquireLease): Subnet | undefined {
  if (previous === undefined || !isSubnetOfNetwork(previous, config)) return undefined
  return unwanted !== undefined && sameSubnet(previous, unwanted) ? undefined : previous
}

/** What a newcomer finds. */
interface Place {
  /** Every subnet, or half of one, that somebody else has a key for, readable or not. */
  readonly occupied: readonly Subnet[]
  /** Claims of ours on halves, from a record that was lost. */
  readonly ownClaims: readonly Entry[]
  /** Key of the record that we made and somebody has made unreadable since. */
  readonly spoiledKey: string | undefined
}

/** What is there: the records that can be read, our own in any case, and what is occupied. */
async function look(
  options: AcquireLease,
): Promise<Place & { readonly records: readonly SubnetRecord[] }> {
  const { registry, prefix, made, holder, config, signal } = options
  const snapshot = await unlessAborted(registry.list(subnetsPrefix(prefix)), signal)
  const table = new LeaseTable()
  table.replace(snapshot)
  const unreadable = new Set(table.bad().map(({ key }) => key))
  const spoiled = snapshot.entries.find(
    ({ key, createRevision }) =>
      unreadable.has(key) && key === made?.key && createRevision === made.createRevision,
  )
  if (spoiled !== undefined) {
    const entry = { ...spoiled, value: formatHolder(holder) }
    table.apply([{ kind: 'put', entry }], 0)
  }
  const claims =
    config.families.length < 2
      ? []
      : (await unlessAborted(registry.list(claimsPrefix(prefix)), signal)).entries
  const isOurs = ({ value }: Entry): boolean => value === holder.hostId
  return {
    records: table.records(),
    occupied: [
      ...snapshot.entries.flatMap(({ key }) => readSubnetKey(key) ?? []),
      ...claims
        .filter(claim => !isOurs(claim))
        .flatMap(claim => readClaimedHalf(claim) ?? []),
    ],
    ownClaims: claims.filter(isOurs),
    spoiledKey: spoiled?.key,
  }
}

/**
 * Gives up our lease on a subnet that the network no longer has; what an operator
 * pinned stays. Returns true when the records must be read again.
 */
async function giveBack(
  records: readonly SubnetRecord[],
  options: AcquireLease,
): Promise<boolean> {
  const own = findOwnRecord(records, options)
  if (own === undefined) return false
  const subnet = formatSubnet(own.subnet)
  if (own.kind === 'reservation') {
    options.log.warn(
      { subnet },
      'the subnet reserved for us is not one of the network configuration; taking another',
    )
    return false
  }
  options.log.warn(
    { subnet },
    'our subnet is not one of the network configuration any more; giving it back',
  )
  await options.registry.commit(
    [{ key: own.key, modRevision: own.modRevision }],
    deleteSubnet(options.prefix, own.subnet),
  )
  return true
}

/** Takes over our own record. */
async function reuse(
  own: SubnetRecord,
  { spoiledKey }: Place,
  options: AcquireLease,
): Promise<HeldLease | undefined> {
  const { registry, prefix, holder, ttlSeconds, clock, log } = options
  const { key, subnet, createRevision } = own
  const guards = [{ key, modRevision: own.modRevision }]
  await refuseClone(own, options)
  if (own.holder.hostId !== holder.hostId) tellTakeover(own, log)

  const record = { value: formatHolder(holder), hostId: holder.hostId }
  const provenAt = clock.now()
  if (own.kind === 'reservation') {
    const outcome = await registry.commit(
      guards,
      putSubnet(prefix, subnet, record, undefined),
    )
    const modRevision = outcome.revision
    return outcome.succeeded
      ? { key, subnet, createRevision, modRevision, provenAt }
      : undefined
  }
  if (key !== spoiledKey && (await isGood(own, options))) {
    const { leaseId, modRevision } = own
    return { key, subnet, createRevision, modRevision, leaseId, provenAt }
  }
  const leaseId = await registry.grantLease(ttlSeconds)
  const outcome = await registry.commit(
    guards,
    putSubnet(prefix, subnet, record, leaseId),
  )
  const modRevision = outcome.revision
  if (outcome.succeeded)
    return { key, subnet, createRevision, modRevision, leaseId, provenAt }
  await registry.revokeLease(leaseId)
  return undefined
}

/**
 * Whether the record is as an earlier run of ours left it and its etcd lease is
 * good for as long as ours shall be: then nothing needs writing, and no other
 * host hears of our restart.
 */
async function isGood(
  own: Lease,
  { registry, made, holder, ttlSeconds }: AcquireLease,
): Promise<boolean> {
  if (own.leaseId !== made?.leaseId || own.key !== made.key) return false
  if (own.createRevision !== made.createRevision) return false
  if (formatHolder(own.holder) !== formatHolder(holder)) return false
  return (await registry.keepLeaseAlive(own.leaseId)) === ttlSeconds
}

function tellTakeover({ subnet, holder }: SubnetRecord, log: Logger): void {
  log.info(
    { subnet: formatSubnet(subnet), formerHostId: holder.hostId ?? null },
    holder.hostId === undefined
      ? 'taking over the record that flannel left for this host'
      : "taking over a record with this host's address and another host id: the state directory was lost or changed",
  )
}

async function create(
  { occupied, ownClaims }: Place,
  options: AcquireLease,
): Promise<HeldLease | undefined> {
  const { registry, prefix, holder, ttlSeconds, clock } = options
  const marks = await listLastHolders(registry, prefix)
  const config = await guardOfConfig(registry, prefix)
  const subnet = options.wanted ?? chooseSubnet(occupied, marks, options)
  const key = formatSubnetKey(prefix, subnet)
  const provenAt = clock.now()
  const leaseId = await registry.grantLease(ttlSeconds)
  const record = { value: formatHolder(holder), hostId: holder.hostId }
  try {
    const { succeeded, revision } = await registry.commit(
      [...guardsOfFree(prefix, subnet, ownClaims), config],
      putSubnet(prefix, subnet, record, leaseId),
    )
    const revisions = { createRevision: revision, modRevision: revision }
    if (succeeded) return { key, subnet, ...revisions, leaseId, provenAt }
  } catch (error) {
    // It may have happened: the next round finds our record if so.
    if (isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')) return undefined
    throw error
  }
  await registry.revokeLease(leaseId)
  if (options.wanted === undefined) return undefined
  throw new SubnetError('ERR_SUBNET_TAKEN', `${formatSubnet(subnet)} is taken`)
}

function chooseSubnet(
  held: readonly Subnet[],
  marks: readonly LastHolder[],
  options: AcquireLease,
): Subnet {
  const taken = [...held, ...(options.believed ?? [])]
  const subnet = pickHalves(taken, marks, options)
  if (subnet !== undefined) return subnet
  throw new SubnetError(
    'ERR_SUBNET_EXHAUSTED',
    `out of subnets: none is free, ${taken.length} taken`,
  )
}

/** Each family is chosen on its own, so that neither half is held twice. */
function pickHalves(
  held: readonly Subnet[],
  marks: readonly LastHolder[],
  { config, previous, unwanted, holder }: AcquireLease,
): Subnet | undefined {
  const prefixes = config.families.map(family => {
    const { family: number } = family.network
    const halfOf = (subnet: Subnet | undefined): Prefix | undefined =>
      subnet && subnetPrefix(subnet, number)
    const avoided = halfOf(unwanted)
    const taken = held
      .map(halfOf)
      .concat(avoided)
      .filter(prefix => prefix !== undefined)
    const used = marks.filter(({ subnet }) => subnet.family === number)
    const ours = used.findLast(({ hostId }) => hostId === holder.hostId)?.subnet
    const preferred = [halfOf(previous), ours].find(
      last =>
        last !== undefined && isSubnetOf(family, last) && !samePrefix(last, avoided),
    )
    return pickSubnet(family, {
      taken,
      used: used.map(({ subnet }) => subnet),
      preferred,
      hostId: holder.hostId,
    })
  })
  return prefixes.every(prefix => prefix !== undefined)
    ? subnetFromPrefixes(prefixes)
    : undefined
}
