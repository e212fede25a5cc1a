import { join } from 'node:path'
import type { Backend, BackendPlan } from '../../lib/backend/backend.js'
import { planBackend } from '../../lib/backend/backends.js'
import type { Underlay } from '../../lib/backend/underlay.js'
import { type HeldLease, acquireLease } from '../../lib/subnet/acquire-lease.js'
import { Backoff } from '../../lib/subnet/clock.js'
import { isSubnetError } from '../../lib/subnet/errors.js'
import type { NetworkConfig } from '../../lib/subnet/network-config.js'
import { FAMILIES, sameAddress } from '../../lib/subnet/prefix.js'
import { type Subnet, formatSubnet } from '../../lib/subnet/subnet-key.js'
import type { Holder } from '../../lib/subnet/subnet-record.js'
import type { DaemonContext } from './daemon.js'
import { obtainHostId } from './host-id.js'
import { makePlaces, networkDirectory } from './places.js'
import { readPreviousSubnetEnv } from './subnet-env-file.js'
import { checkOverlaps, findUnderlay } from './this-host.js'
import { storeFirstConfig, waitForConfig } from './wait-for-config.js'

/** flannel's lease time: 24 h. */
export const LEASE_TTL_SECONDS = 86_400

/** Between two attempts to get a subnet, in ms. */
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

export type OwnHolder = Holder & { readonly hostId: string }

/** This host's part in the network. */
export interface Membership {
  readonly config: NetworkConfig
  readonly plan: BackendPlan
  readonly backend: Backend
  readonly holder: OwnHolder
  readonly held: HeldLease
}

/**
 * Finds the network and this host's interface, takes a subnet, and makes the
 * devices. Waits for what may come: etcd, the configuration, a free subnet.
 * Undefined when the daemon is stopped meanwhile.
 */
export async function joinNetwork(
  context: DaemonContext,
): Promise<Membership | undefined> {
  const { flags, places, state, cleanup, clock, log, stop } = context
  await storeFirstConfig(context)
  const config = await waitForConfig(context)
  if (config === undefined) return undefined
  state.phase = 'starting'

  const underlay = await findUnderlay(flags, config, log)
  const directory = networkDirectory(config.families.map(family => family.network))
  const stateDir = join(places.stateDir, directory)
  const runDir = join(places.runDir, directory)
  await makePlaces(stateDir, runDir)
  const previous = await readPreviousSubnetEnv(flags['subnet-file'], log)
  await checkOverlaps({ config, previous, stateDir, endpoints: context.endpoints })
  const plan = planBackend({
    config,
    underlay,
    stateDir,
    runDir,
    verify: flags.verify,
    clock,
    log,
  })

  const hostId = await obtainHostId(
    { given: flags['node-id'], file: places.hostIdFile, mac: underlay.mac },
    log,
  )
  const holder = { ...describeHolder(underlay, plan), hostId }
  const held = await acquire(context, { config, underlay, holder, previous })
  if (held === undefined) return undefined

  const backend = await plan.start(held.subnet)
  cleanup.push(() => backend.close(stop.reason === 'keep' ? 'keep' : 'end'))
  return { config, plan, backend, holder, held }
}

/** The addresses that others reach us by; and, behind NAT, the one that we may send from. */
function describeHolder(underlay: Underlay, plan: BackendPlan): Holder {
  const { publicAddresses, addresses } = underlay
  const sourceIps = FAMILIES.flatMap(family => {
    const own = addresses[family]
    return own === undefined || sameAddress(own, publicAddresses[family]) ? [] : [own]
  })
  return {
    ...(publicAddresses[4] && { publicIp: publicAddresses[4] }),
    ...(publicAddresses[6] && { publicIpv6: publicAddresses[6] }),
    backendType: plan.leaseType,
    ...(sourceIps.length > 0 && { sourceIps }),
  }
}

/** Takes a subnet; waits, and says so, while none is free or etcd is away. */
async function acquire(
  { registry, prefix, state, clock, log, stop }: DaemonContext,
  wish: {
    readonly config: NetworkConfig
    readonly underlay: Underlay
    readonly holder: OwnHolder
    readonly previous: Subnet | undefined
  },
): Promise<HeldLease | undefined> {
  const { config, underlay, holder, previous } = wish
  const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  let said = ''
  while (!stop.aborted) {
    try {
      const held = await acquireLease({
        registry,
        prefix,
        config,
        holder,
        localAddresses: Object.values(underlay.addresses),
        ...(previous && { previous }),
        ttlSeconds: LEASE_TTL_SECONDS,
        clock,
        log,
      })
      log.info(
        { subnet: formatSubnet(held.subnet), hostId: holder.hostId },
        'lease acquired',
      )
      return held
    } catch (error) {
      if (!isWorthWaiting(error)) throw error
      if (error.message !== said)
        log.warn({ reason: error.message }, 'waiting for a subnet')
      said = error.message
      state.wait(error.message)
      await backoff.wait(stop)
    }
  }
  return undefined
}

function isWorthWaiting(error: unknown): error is Error {
  return (
    isSubnetError(error, 'ERR_SUBNET_EXHAUSTED') ||
    isSubnetError(error, 'ERR_SUBNET_TAKEN') ||
    isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')
  )
}
