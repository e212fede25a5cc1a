import type { Logger } from 'pino'
import { pickSubnet } from './allocate.js'
import type { Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import { LeaseTable } from './lease-table.js'
import { type NetworkConfig, isSubnetOf } from './network-config.js'
import type { Address, Prefix } from './prefix.js'
import { sameAddress } from './prefix.js'
import type { Registry } from './registry.js'
import {
  type Subnet,
  formatSubnet,
  formatSubnetKey,
  subnetFromPrefixes,
  subnetPrefix,
  subnetsPrefix,
} from './subnet-key.js'
import { type Holder, type SubnetRecord, formatHolder } from './subnet-record.js'

/** Lost races before we give up for now; each round sees what the winners took. */
const MAX_ROUNDS = 50

/** Hosts that lost a race wait up to this long, so that they do not clash again. */
const RACE_JITTER_MS = 50

export interface AcquireLease {
  readonly registry: Registry
  /** Clean etcd prefix such as /coreos.com/network. */
  readonly prefix: string
  readonly config: NetworkConfig
  /** What our record shall say; its HostID says that it is ours. */
  readonly holder: Holder & { readonly hostId: string }
  /** Underlay addresses of this host: a record with one of them is ours, whoever wrote it. */
  readonly localAddresses: readonly Address[]
  /** The subnet we held last, from subnet.env. */
  readonly previous?: Subnet
  readonly ttlSeconds: number
  readonly clock: Clock
  readonly log: Logger
}

/** Our own record, as we last wrote or saw it. */
export interface HeldLease {
  readonly key: string
  readonly subnet: Subnet
  /** Absent for a reservation, which does not expire. */
  readonly leaseId?: string
  /** Clock time of the last word that the lease is good, in ms. */
  readonly provenAt: number
}

/**
 * Takes a subnet for this host: the record that is ours already, else the
 * subnet that we held last, else a free one computed from the host id. Every
 * write is a compare-and-swap; a lost race means choosing again.
 *
 * Throws ERR_SUBNET_EXHAUSTED when no subnet is free.
 */
export async function acquireLease(options: AcquireLease): Promise<HeldLease> {
  const { registry, clock } = options
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const table = new LeaseTable()
    table.replace(await registry.list(subnetsPrefix(options.prefix)))
    const records = table.records()
    const own = findOwnRecord(records, options)
    const held =
      own === undefined ? await create(records, options) : await reuse(own, options)
    if (held !== undefined) return held
    await clock.sleep(clock.random() * RACE_JITTER_MS)
  }
  throw new SubnetError(
    'ERR_SUBNET_TAKEN',
    `other hosts were faster ${MAX_ROUNDS} times while taking a subnet`,
  )
}

/** By host id first: an address may have moved to us from a host that still holds its lease. */
function findOwnRecord(
  records: readonly SubnetRecord[],
  { holder, localAddresses }: AcquireLease,
): SubnetRecord | undefined {
  return (
    records.find(record => record.holder.hostId === holder.hostId) ??
    records.find(({ holder: other }) =>
      localAddresses.some(
        address =>
          sameAddress(other.publicIp, address) || sameAddress(other.publicIpv6, address),
      ),
    )
  )
}

/** Takes over our own record, or gives it back when the network no longer has such a subnet. */
async function reuse(
  own: SubnetRecord,
  options: AcquireLease,
): Promise<HeldLease | undefined> {
  const { registry, holder, ttlSeconds, clock, log } = options
  const guards = [{ key: own.key, modRevision: own.modRevision }]
  if (!fits(own.subnet, options.config)) {
    log.warn(
      { subnet: formatSubnet(own.subnet) },
      'our subnet is not one of the network configuration any more; giving it back',
    )
    await registry.commit(guards, [{ kind: 'delete', key: own.key }])
    return undefined
  }

  const value = formatHolder(holder)
  const provenAt = clock.now()
  if (own.kind === 'reservation') {
    const outcome = await registry.commit(guards, [{ kind: 'put', key: own.key, value }])
    return outcome.succeeded ? { key: own.key, subnet: own.subnet, provenAt } : undefined
  }
  const leaseId = await registry.grantLease(ttlSeconds)
  const outcome = await registry.commit(guards, [
    { kind: 'put', key: own.key, value, leaseId },
  ])
  if (outcome.succeeded) return { key: own.key, subnet: own.subnet, leaseId, provenAt }
  await registry.revokeLease(leaseId)
  return undefined
}

async function create(
  records: readonly SubnetRecord[],
  options: AcquireLease,
): Promise<HeldLease | undefined> {
  const { registry, prefix, holder, ttlSeconds, clock } = options
  const subnet = chooseSubnet(records, options)
  const key = formatSubnetKey(prefix, subnet)
  const provenAt = clock.now()
  const leaseId = await registry.grantLease(ttlSeconds)
  try {
    const { succeeded } = await registry.commit(
      [{ key, modRevision: 0n }],
      [{ kind: 'put', key, value: formatHolder(holder), leaseId }],
    )
    if (succeeded) return { key, subnet, leaseId, provenAt }
  } catch (error) {
    // It may have happened: the next round finds our record if so.
    if (isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')) return undefined
    throw error
  }
  await registry.revokeLease(leaseId)
  return undefined
}

/** Each family is chosen on its own, so that neither half is held twice. */
function chooseSubnet(
  records: readonly SubnetRecord[],
  { config, previous, holder }: AcquireLease,
): Subnet {
  const prefixes = config.families.map(family => {
    const taken = records
      .map(record => subnetPrefix(record.subnet, family.network.family))
      .filter((prefix): prefix is Prefix => prefix !== undefined)
    const last = previous && subnetPrefix(previous, family.network.family)
    const preferred = last !== undefined && isSubnetOf(family, last) ? last : undefined
    const picked = pickSubnet(family, taken, preferred, holder.hostId)
    if (picked === undefined) {
      throw new SubnetError(
        'ERR_SUBNET_EXHAUSTED',
        `out of subnets: all of the network's ${taken.length} records are held`,
      )
    }
    return picked
  })
  return subnetFromPrefixes(prefixes)
}

function fits(subnet: Subnet, config: NetworkConfig): boolean {
  const wanted = config.families.every(family => {
    const prefix = subnetPrefix(subnet, family.network.family)
    return prefix !== undefined && isSubnetOf(family, prefix)
  })
  const halves = [subnetPrefix(subnet, 4), subnetPrefix(subnet, 6)]
  return (
    wanted && halves.filter(half => half !== undefined).length === config.families.length
  )
}
