import { join } from 'node:path'
import type { BackendPlan } from '../../lib/backend/backend.js'
import { checkBackend, planBackend } from '../../lib/backend/backends.js'
import type { AddressPair, Underlay } from '../../lib/backend/underlay.js'
import type { LeaseMemory } from '../../lib/subnet/host-lease.js'
import {
  type NetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import { type Address, FAMILIES, sameAddress } from '../../lib/subnet/prefix.js'
import type { PreviousSubnetEnv } from '../../lib/subnet/subnet-env.js'
import type { Subnet } from '../../lib/subnet/subnet-key.js'
import {
  type Holder,
  type OwnHolder,
  formatHolder,
  parseHolder,
} from '../../lib/subnet/subnet-record.js'
import type { DaemonContext } from './daemon.js'
import { type Identity, type IdentityOptions, obtainIdentity } from './identity.js'
import type { LeaseCache } from '../../lib/subnet/lease-cache.js'
import { LeaseCacheFile } from './lease-cache-file.js'
import { makePlaces, networkDirectory } from './places.js'
import { readPreviousSubnetEnv } from './subnet-env-file.js'
import { readHeldSubnets } from './journal.js'
import { checkOverlaps, findUnderlay, readLocalAddresses } from './this-host.js'
import { storeFirstConfig, waitForConfig } from './wait-for-config.js'

/** Everything that is decided before this host has a subnet. */
export interface PreparedNetwork {
  readonly config: NetworkConfig
  /** The configuration as it was stored. */
  readonly configText: string
  readonly underlay: Underlay
  readonly plan: BackendPlan
  readonly holder: OwnHolder
  readonly identity: Identity
  readonly identityOptions: IdentityOptions
  readonly localAddresses: readonly Address[]
  readonly previous: Subnet | undefined
  /** What the subnet file said before. */
  readonly formerEnv: PreviousSubnetEnv | undefined
  /** What this host wrote into its record last. */
  readonly former: Holder | undefined
  readonly cacheFile: LeaseCacheFile
  /** What an earlier run held and knew. */
  readonly memory: LeaseMemory | undefined
  /** etcd does not answer this run yet. */
  readonly isRegistryAway: boolean
  /** etcd or the configuration was not there at first. */
  readonly isUnsettled: boolean
}

/**
 * Finds the network, this host's interface and its name, and how packets will
 * travel. Waits for what may come: etcd, the configuration. Undefined when the
 * daemon is stopped meanwhile.
 */
export async function prepareNetwork(
  context: DaemonContext,
): Promise<PreparedNetwork | undefined> {
  const { flags, places, state, clock, log, stop } = context
  const cacheFile = new LeaseCacheFile(places.leaseCacheFile, clock, log)
  const cache = await cacheFile.read()
  const isYoung = await storeFirstConfig(context, cache === undefined)
  const found = await waitForConfig(context, cache?.config)
  if (found === undefined) return undefined
  const { text: configText, waited, isRemembered } = found
  const config = parseNetworkConfig(configText)
  state.phase = 'starting'

  checkBackend(config)
  const former = cache && parseHolder(cache.holder)
  const underlay = await findUnderlay(context, config, addressesOf(former))
  if (underlay === undefined) return undefined
  const directory = networkDirectory(config.families.map(family => family.network))
  const stateDir = join(places.stateDir, directory)
  await makePlaces(stateDir)
  const formerEnv = await readPreviousSubnetEnv(flags['subnet-file'], log)
  // What containers were told of last, by whichever daemon; a reboot forgets it.
  const previous = formerEnv?.subnet ?? cache?.held.subnet
  const formerSubnets = await readHeldSubnets(places.journalFile, previous)
  await checkOverlaps({ config, formerSubnets, stateDir, endpoints: context.endpoints })
  const plan = planBackend({
    config,
    underlay,
    stateDir,
    // A path of another Network of ours is found there too, and ended.
    runDir: places.runDir,
    verify: flags.verify,
    udpQueues: flags['udp-queues'],
    resyncMs: flags['iptables-resync'] * 1000,
    wireguardKeyFile: process.env['WIREGUARD_KEY_FILE'],
    clock,
    log,
  })

  const identityOptions = {
    given: flags['node-id'],
    file: places.hostIdFile,
    mac: underlay.mac,
  }
  const identity = await obtainIdentity(identityOptions, log)
  const holder = {
    ...describeHolder(underlay, plan),
    ...(await plan.leaseData?.()),
    hostId: identity.hostId,
  }
  if (stop.aborted) return undefined
  return {
    config,
    configText,
    underlay,
    plan,
    holder,
    identity,
    identityOptions,
    localAddresses: await readLocalAddresses(underlay),
    previous,
    formerEnv,
    former,
    cacheFile,
    memory: recall(cache, identity),
    // At another address this host must ask before it goes on.
    isRegistryAway: isRemembered && cache?.holder === formatHolder(holder),
    // An etcd of our own that is new has no other hosts yet.
    isUnsettled: waited || (isYoung && !flags['embedded-etcd']),
  }
}

function addressesOf(holder: Holder | undefined): AddressPair {
  const { publicIp, publicIpv6 } = holder ?? {}
  return { ...(publicIp && { 4: publicIp }), ...(publicIpv6 && { 6: publicIpv6 }) }
}

/** What an earlier run wrote down; nobody's if it was of another host id, or may be a copy. */
function recall(
  cache: LeaseCache | undefined,
  { hostId, mayBeClone }: Identity,
): LeaseMemory | undefined {
  if (cache === undefined || mayBeClone || parseHolder(cache.holder).hostId !== hostId)
    return undefined
  return cache
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
