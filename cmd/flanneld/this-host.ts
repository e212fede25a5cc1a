import { join } from 'node:path'
import { devicesOf, leavesRoutes } from '../../lib/backend/backends.js'
import { BackendError } from '../../lib/backend/errors.js'
import { findOverlaps } from '../../lib/backend/overlap.js'
import {
  type AddressPair,
  type Underlay,
  chooseUnderlay,
  readHostNetwork,
} from '../../lib/backend/underlay.js'
import { readSysctl } from '../../lib/linux/sysctl.js'
import type { NetworkConfig } from '../../lib/subnet/network-config.js'
import { type Address, type Family, parseAddress } from '../../lib/subnet/prefix.js'
import { type Subnet, subnetPrefix } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext, DaemonFlags } from './daemon.js'
import { endpointHosts } from './etcd-options.js'
import { readFileIfAny } from './files.js'
import { UsageError } from './parse-flags.js'

/** How often an interface that is not there is looked for. */
const UNDERLAY_POLL_MS = 500

/**
 * Chooses the interface to the other hosts. Undefined when the daemon is stopped
 * meanwhile. Throws ERR_UNDERLAY or UsageError.
 *
 * @param present the addresses that it had when it ran last.
 */
export async function findUnderlay(
  context: DaemonContext,
  config: NetworkConfig,
  present: AddressPair,
): Promise<Underlay | undefined> {
  const { log } = context
  const underlay = await waitForUnderlay(context, config, present)
  if (underlay === undefined) return undefined
  for (const note of underlay.notes) log.warn(note)
  log.info({ device: underlay.device, mtu: underlay.mtu }, 'underlay interface')
  if ((await readSysctl('net/ipv4/ip_forward')) === '0') {
    log.info(
      'net.ipv4.ip_forward is 0: containers are cut off until Docker or sysctl sets it to 1',
    )
  }
  return underlay
}

/** An interface or default route may come later than we do (--iface-timeout). */
async function waitForUnderlay(
  { flags, clock, state, stop, log }: DaemonContext,
  config: NetworkConfig,
  present: AddressPair,
): Promise<Underlay | undefined> {
  const deadline = clock.now() + flags['iface-timeout'] * 1000
  let said = ''
  while (!stop.aborted) {
    try {
      const underlay = await chooseUnderlayNow(flags, config, present)
      state.phase = 'starting'
      return underlay
    } catch (error) {
      if (!(error instanceof BackendError) || clock.now() >= deadline) throw error
      if (error.message !== said)
        log.warn({ reason: error.message }, 'waiting for the interface to other hosts')
      said = error.message
      state.wait(error.message)
      await clock.sleep(UNDERLAY_POLL_MS, stop)
    }
  }
  return undefined
}

/** The choice as this host's interfaces are at the moment. Throws ERR_UNDERLAY or UsageError. */
export async function chooseUnderlayNow(
  flags: DaemonFlags,
  config: NetworkConfig,
  present: AddressPair,
): Promise<Underlay> {
  return chooseUnderlay(
    {
      present,
      ifaces: flags.iface,
      ifaceRegexes: flags['iface-regex'],
      ifaceCanReach: flags['iface-can-reach'],
      publicIps: readPublicIps(flags),
      families: config.families.map(({ network }) => network.family),
    },
    await readHostNetwork(flags['iface-can-reach']),
  )
}

/** Addresses that only this host has, as far as they can be told: a record with one of them is ours. */
export async function readLocalAddresses(underlay: Underlay): Promise<Address[]> {
  const { links } = await readHostNetwork()
  return links
    .filter(link => link.name === underlay.device || link.kind === undefined)
    .flatMap(link => link.addresses)
    .filter(({ scope }) => scope === 'global')
    .flatMap(({ local }) => tryParse(local) ?? [])
}

/** The addresses that the flags give. Throws UsageError. */
export function readPublicIps(flags: DaemonFlags): AddressPair {
  const v4 = readPublicIp('public-ip', flags['public-ip'], 4)
  const v6 = readPublicIp('public-ipv6', flags['public-ipv6'], 6)
  return { ...(v4 && { 4: v4 }), ...(v6 && { 6: v6 }) }
}

function readPublicIp(flag: string, text: string, family: Family): Address | undefined {
  if (text === '') return undefined
  const address = tryParse(text)
  if (address?.family === family) return address
  throw new UsageError(
    `--${flag} is ${JSON.stringify(text)}; it takes an IPv${family} address`,
  )
}

interface OverlapOptions {
  readonly config: NetworkConfig
  /** The subnet of an earlier run: its bridge may be there. */
  /** That this host has held: Docker's bridge is in the last one of which it was told. */
  readonly formerSubnets?: readonly Subnet[]
  /** Where the name of our device was written down. */
  readonly stateDir?: string
  readonly endpoints?: readonly string[]
}

/** Refuses a Network that would take addresses away from this host. Throws ERR_NETWORK_OVERLAP. */
export async function checkOverlaps(options: OverlapOptions): Promise<void> {
  const overlaps = await findHostOverlaps(options)
  if (overlaps.length === 0) return
  throw new BackendError(
    'ERR_NETWORK_OVERLAP',
    `${overlaps.join('; ')}: choose a Network that nothing on any host uses (flannelctl config set)`,
  )
}

/** What of this host the Network would take addresses away from, a sentence each. */
export async function findHostOverlaps(options: OverlapOptions): Promise<string[]> {
  const { config, formerSubnets = [], stateDir, endpoints = [] } = options
  const host = await readHostNetwork()
  const ownDevices = await readOwnDevices(config, stateDir)
  const addresses = endpointHosts(endpoints).flatMap(name => tryParse(name) ?? [])
  return config.families.flatMap(({ network }) => {
    return findOverlaps({
      network,
      host,
      endpoints: addresses,
      ownDevices,
      leavesRoutes: leavesRoutes(config),
      ownSubnets: formerSubnets.flatMap(
        subnet => subnetPrefix(subnet, network.family) ?? [],
      ),
    })
  })
}

/** Devices that are ours: those that the configuration names, and the one that was written down. */
export async function readOwnDevices(
  config: NetworkConfig,
  stateDir: string | undefined,
): Promise<string[]> {
  const device = stateDir && (await readFileIfAny(join(stateDir, 'device')))?.trim()
  return [...devicesOf(config), ...(device ? [device] : [])]
}

function tryParse(text: string): Address | undefined {
  try {
    return parseAddress(text)
  } catch {
    return undefined
  }
}
