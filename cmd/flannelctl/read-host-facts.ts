import { get as getHttp } from 'node:http'
import { get as getHttps } from 'node:https'
import { join } from 'node:path'
import { type HostNetwork, readHostNetwork } from '../../lib/backend/underlay.js'
import type { EtcdFacts, HostFacts } from '../../lib/diagnosis/host-facts.js'
import type { SavedTable } from '../../lib/diagnosis/packet-filter.js'
import { findAddressRival } from '../../lib/linux/arp-probe.js'
import { readKinds, saveTable } from '../../lib/linux/iptables.js'
import { routesTo } from '../../lib/linux/ip-routes.js'
import { findMissingModule } from '../../lib/linux/modules.js'
import { mayAdministerNetwork } from '../../lib/linux/privileges.js'
import { readSysctl } from '../../lib/linux/sysctl.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import type { LeaseCache } from '../../lib/subnet/lease-cache.js'
import {
  type NetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import {
  type Prefix,
  addressBytes,
  formatAddress,
  parseAddress,
  parsePrefix,
} from '../../lib/subnet/prefix.js'
import { configKey, parseSubnetText, prefixesOf } from '../../lib/subnet/subnet-key.js'
import { parseHolder, publicAddressOf } from '../../lib/subnet/subnet-record.js'
import { readEtcdOptions } from '../flanneld/etcd-options.js'
import type { ETCD_FLAGS } from '../flanneld/flag-table.js'
import type { Flags } from '../flanneld/parse-flags.js'
import { readHeldSubnets } from '../flanneld/journal.js'
import { networkDirectory, placesOf } from '../flanneld/places.js'
import { findHostOverlaps, readOwnDevices } from '../flanneld/this-host.js'
import { type DaemonStatus, type StatusFlags, askDaemon } from './daemon-status.js'
import { readLeaseCache } from './own-lease.js'

type FactFlags = StatusFlags & Flags<typeof ETCD_FLAGS>

const DATE_TIMEOUT_MS = 2000

/** More remotes say nothing more of this host. */
const MOST_WAYS = 64

/**
 * Looks at this host, its daemon and etcd. Changes nothing. Throws CommandFailure.
 *
 * @param isEtcdNeeded false where a daemon that is ready knows enough of etcd.
 */
export async function readHostFacts(
  flags: FactFlags,
  isEtcdNeeded = true,
): Promise<HostFacts> {
  const isRoot = await mayAdministerNetwork()
  const daemon = isRoot ? await askDaemon(flags) : undefined
  const [host, etcd, cache] = await Promise.all([
    readHostNetwork(),
    isEtcdNeeded || daemon?.phase !== 'ready' ? askEtcd(flags) : NOT_ASKED,
    readLeaseCache(flags),
  ])
  const config = readConfig(etcd.config ?? cache?.config)
  const networks = daemon?.networks?.map(parsePrefix) ?? networksOf(config)
  const subnet = subnetOf(daemon, cache)
  const stateDir = config && join(placesOf(flags).stateDir, networkDirectory(networks))
  const publicIp = daemon?.lease?.record.PublicIP ?? publicIpOf(cache)
  return {
    isRoot,
    daemon,
    networks,
    subnet,
    host,
    publicIp,
    ownDevices: new Set([
      ...(config === undefined ? [] : await readOwnDevices(config, stateDir)),
      ...(daemon?.backend === undefined ? [] : [daemon.backend.device]),
      ...(daemon?.remotes ?? []).flatMap(({ devices = [] }) => devices),
    ]),
    missingModule:
      config === undefined || daemon?.phase === 'ready'
        ? undefined
        : await findMissingModule(config.backend.type),
    // One that is ready has looked.
    overlaps:
      config === undefined || stateDir === undefined || daemon?.phase === 'ready'
        ? []
        : await findHostOverlaps({
            config,
            formerSubnets: await readHeldSubnets(
              placesOf(flags).journalFile,
              cache?.held.subnet,
            ),
            stateDir,
            endpoints: etcd.facts.endpoints,
          }),
    sysctls: await readSysctls([daemon?.underlay?.device, daemon?.backend?.device]),
    etcd: etcd.facts,
    ways: await readWays(daemon),
    filters: isRoot ? await readTables('filter') : [],
    rival: isRoot ? findRival(host, publicIp) : undefined,
  }
}

function readConfig(text: string | undefined): NetworkConfig | undefined {
  try {
    return text === undefined ? undefined : parseNetworkConfig(text)
  } catch {
    return undefined
  }
}

function networksOf(config: NetworkConfig | undefined): Prefix[] {
  return config?.families.map(({ network }) => network) ?? []
}

function subnetOf(
  daemon: DaemonStatus | undefined,
  cache: LeaseCache | undefined,
): Prefix[] {
  if (daemon?.lease !== undefined) return parseSubnetText(daemon.lease.subnet)
  return cache === undefined ? [] : prefixesOf(cache.held.subnet)
}

function publicIpOf(cache: LeaseCache | undefined): string | undefined {
  const { publicIp } = cache === undefined ? {} : parseHolder(cache.holder)
  return publicIp && formatAddress(publicIp)
}

const NOT_ASKED = {
  facts: { endpoints: [], trouble: undefined, isAway: false, aheadMs: undefined },
  config: undefined,
} as const

async function askEtcd(
  flags: FactFlags,
): Promise<{ facts: EtcdFacts; config: string | undefined }> {
  const { endpoints } = readEtcdOptions(flags)
  // etcd's client takes as long to load as all the rest.
  const { withRegistry } = await import('./etcd.js')
  try {
    const { entry } = await withRegistry(flags, (registry, prefix) =>
      registry.get(configKey(prefix)),
    )
    const aheadMs = await readClockDifference(endpoints)
    const facts = { endpoints, trouble: undefined, isAway: false, aheadMs }
    return { facts, config: entry?.value }
  } catch (error) {
    if (!(error instanceof SubnetError)) throw error
    const isAway = error.code === 'ERR_REGISTRY_UNAVAILABLE'
    const facts = { endpoints, trouble: error.message, isAway, aheadMs: undefined }
    return { facts, config: undefined }
  }
}

/** etcd tells the time in the header of whatever it answers, to the second. */
async function readClockDifference(
  endpoints: readonly string[],
): Promise<number | undefined> {
  const [endpoint] = endpoints.filter(each => /^https?:/.test(each))
  if (endpoint === undefined) return undefined
  const date = await new Promise<string | undefined>(resolve => {
    const get = endpoint.startsWith('https:') ? getHttps : getHttp
    // The time is no secret, and nothing is done with it but to compare.
    const options = { timeout: DATE_TIMEOUT_MS, rejectUnauthorized: false, agent: false }
    const request = get(`${endpoint}/version`, options, response => {
      response.resume()
      resolve(response.headers.date)
    })
    request.on('timeout', () => request.destroy())
    request.on('error', () => {
      resolve(undefined)
    })
    request.on('close', () => {
      resolve(undefined)
    })
  })
  const theirs = Date.parse(date ?? '')
  return Number.isNaN(theirs) ? undefined : theirs - Date.now()
}

async function readSysctls(
  devices: readonly (string | undefined)[],
): Promise<ReadonlyMap<string, string>> {
  const paths = [
    'net/ipv4/ip_forward',
    'net/ipv6/conf/all/forwarding',
    ...['all', ...devices].flatMap(device =>
      device === undefined
        ? []
        : [`net/ipv4/conf/${device}/rp_filter`, `net/ipv4/conf/${device}/forwarding`],
    ),
  ]
  const values = new Map<string, string>()
  for (const path of paths) {
    const value = await readSysctl(path)
    if (value !== undefined) values.set(path, value)
  }
  return values
}

async function readWays(daemon: DaemonStatus | undefined): Promise<HostFacts['ways']> {
  const addresses = (daemon?.remotes ?? [])
    .slice(0, MOST_WAYS)
    .map(({ record }) => publicAddressOf(record))
    .filter(address => address !== '0.0.0.0')
  const ways = await routesTo(addresses)
  return new Map(addresses.map((address, index) => [address, ways[index]] as const))
}

/** A table of each kind of iptables in use; what cannot be read is empty. */
export async function readTables(table: 'filter' | 'nat'): Promise<SavedTable[]> {
  const families = [
    [4, 'iptables'],
    [6, 'ip6tables'],
  ] as const
  const tables = families.map(async ([family, name]) => {
    const { inUse } = await readKinds(name)
    return await Promise.all(
      inUse.map(async kind => ({
        program: `${name}${kind}`,
        family,
        text: await saveTable(name, table, kind).catch(() => ''),
      })),
    )
  })
  return (await Promise.all(tables)).flat()
}

function findRival(host: HostNetwork, publicIp: string | undefined): string | undefined {
  const link = host.links.find(({ addresses }) =>
    addresses.some(({ local, family }) => family === 4 && local === publicIp),
  )
  if (link?.mac === undefined || publicIp === undefined || !link.up) return undefined
  try {
    return findAddressRival({
      ifindex: link.index,
      mac: link.mac,
      ownMacs: new Set(host.links.flatMap(({ mac }) => mac ?? [])),
      address: addressBytes(parseAddress(publicIp)),
    })
  } catch {
    // No Ethernet, or a link that goes down this moment: other checks tell of that.
    return undefined
  }
}
