import type { Link } from '../linux/ip-links.js'
import {
  type Address,
  type Family,
  baseAddress,
  containsAddress,
  firstHostAddress,
  formatPrefix,
  overlaps,
  parseAddress,
  parsePrefix,
  sameAddress,
  isAmong,
} from '../subnet/prefix.js'
import { parseSubnetText } from '../subnet/subnet-key.js'
import { ROUTE_PROTOCOL } from '../backend/route-protocol.js'
import type { Check, Finding } from './check.js'
import type { HostFacts, RemoteFacts } from './host-facts.js'
import { type Refusal, findRefusal } from './packet-filter.js'

/** A clock that is further off makes certificates and logs misleading. */
const MOST_SKEW_MS = 30_000

/** Strict, as net.ipv4.conf.*.rp_filter has it (RFC 3704). */
const RP_FILTER_STRICT = '1'
const RP_FILTER_LOOSE = '2'

type HostCheck = Check<HostFacts>

/** Everything on a host that keeps packets from flowing, the causes before their effects. */
export const HOST_CHECKS: readonly HostCheck[] = [
  {
    name: 'privileges',
    after: [],
    find: ({ isRoot }) =>
      isRoot
        ? undefined
        : {
            what: 'rules of the firewall and the status of the daemon are for root alone',
            mend: 'sudo flannelctl doctor',
          },
  },
  { name: 'underlay', after: ['privileges'], find: findUnderlayTrouble },
  { name: 'duplicate-address', after: ['underlay'], find: findDuplicate },
  { name: 'leftovers', after: ['privileges'], find: findLeftovers },
  {
    name: 'overlap',
    after: ['leftovers'],
    find: ({ overlaps: [first] }) =>
      first === undefined
        ? undefined
        : {
            what: first,
            mend: 'flannelctl config set, with a Network that nothing on any host uses',
          },
  },
  { name: 'etcd', after: ['underlay', 'duplicate-address'], find: findEtcdTrouble },
  { name: 'clock', after: ['etcd'], find: findSkew },
  { name: 'modules', after: ['privileges'], find: findMissingModule },
  {
    name: 'daemon',
    after: ['underlay', 'overlap', 'etcd', 'modules'],
    find: findStopped,
  },
  { name: 'lease', after: ['daemon', 'duplicate-address'], find: findLeaseTrouble },
  { name: 'interface', after: ['daemon'], find: findWrongInterface },
  { name: 'forwarding', after: ['privileges'], find: findForwardingOff },
  { name: 'rp-filter', after: ['interface'], find: findStrictFilter },
  { name: 'port', after: ['daemon'], find: findClosedPort },
  { name: 'forward-rules', after: ['forwarding', 'daemon'], find: findForwardRefusal },
  { name: 'bridge', after: ['lease'], find: findOtherBridge },
  { name: 'bridge-mtu', after: ['bridge'], find: findLongBridge },
  {
    name: 'docker',
    after: ['bridge'],
    find: ({ daemon }) => {
      const what = daemon?.notes['docker']
      return what === undefined ? undefined : { what }
    },
  },
  {
    name: 'troubles',
    after: ['daemon', 'lease', 'leftovers', 'interface', 'duplicate-address'],
    find: ({ daemon }) => {
      const [first] = Object.entries(daemon?.troubles ?? {})
      return first === undefined ? undefined : { what: first.join(': ') }
    },
  },
]

function findUnderlayTrouble({ daemon, host, publicIp }: HostFacts): Finding | undefined {
  const device = daemon?.underlay?.device
  const link = host.links.find(({ name, addresses }) =>
    device === undefined
      ? addresses.some(({ local }) => local === publicIp)
      : name === device,
  )
  if (link !== undefined && !link.up)
    return {
      what: `${link.name}, by which other hosts are reached, is down`,
      mend: `ip link set ${link.name} up`,
    }
  if (link !== undefined && !link.hasCarrier)
    return {
      what: `${link.name}, by which other hosts are reached, has no link: cable or switch`,
    }
  if (device !== undefined && link === undefined)
    return { what: `the interface ${device}, by which other hosts are reached, is gone` }
  return undefined
}

function findDuplicate({ rival, publicIp }: HostFacts): Finding | undefined {
  return rival === undefined
    ? undefined
    : {
        what: `another machine, ${rival}, answers for ${publicIp ?? ''}, the address of this host`,
        mend: 'give one of the two another address',
      }
}

/** Devices that lead packets of the network elsewhere: of stock flannel, or of somebody. */
function findLeftovers({
  host,
  networks,
  ownDevices,
  subnet,
}: HostFacts): Finding | undefined {
  for (const route of host.routes) {
    const range = parsePrefix(route.destination)
    const [hop] = route.nextHops
    const isElsewhere =
      hop !== undefined &&
      hop.device.startsWith('flannel') &&
      !ownDevices.has(hop.device) &&
      route.protocol !== String(ROUTE_PROTOCOL) &&
      networks.some(network => overlaps(network, range)) &&
      !subnet.some(own => overlaps(own, range))
    if (isElsewhere)
      return {
        what: `the route ${route.destination} leads to ${hop.device}, which an earlier flannel has left`,
        mend: `ip link delete ${hop.device}`,
      }
  }
  return undefined
}

/** The daemon's own word counts: it may have been told of other endpoints than this command. */
function findEtcdTrouble({ etcd, daemon }: HostFacts): Finding | undefined {
  if (etcd.trouble === undefined || daemon?.etcdReachable === true) return undefined
  const [endpoint = ''] = etcd.endpoints
  return {
    what: `etcd cannot be asked at ${etcd.endpoints.join(', ')}: ${etcd.trouble}`,
    // One that refuses us runs.
    mend: etcd.isAway ? `systemctl restart etcd, on ${hostOf(endpoint)}` : undefined,
  }
}

function hostOf(endpoint: string): string {
  return URL.canParse(endpoint) ? new URL(endpoint).hostname : endpoint
}

function findSkew({ etcd: { aheadMs } }: HostFacts): Finding | undefined {
  if (aheadMs === undefined || Math.abs(aheadMs) < MOST_SKEW_MS) return undefined
  const seconds = Math.round(Math.abs(aheadMs) / 1000)
  return {
    what: `the clock of this host is ${seconds} s ${aheadMs > 0 ? 'behind' : 'ahead of'} that of etcd`,
    mend: 'timedatectl set-ntp true',
  }
}

function findMissingModule({ daemon, missingModule }: HostFacts): Finding | undefined {
  // One that is ready has its device, whatever the module is called.
  if (missingModule === undefined || daemon?.phase === 'ready') return undefined
  return {
    what: `the kernel has no ${missingModule}, which the backend of this network needs`,
    mend: 'install a kernel that has it, or set another Backend.Type (flannelctl config set)',
  }
}

function findStopped({ daemon }: HostFacts): Finding | undefined {
  if (daemon === undefined)
    return {
      what: 'flanneld does not run on this host',
      mend: 'systemctl start flanneld',
    }
  if (daemon.phase === 'waiting')
    return { what: `flanneld waits: ${daemon.waitingFor ?? ''}` }
  return daemon.phase === 'ready' ? undefined : { what: `flanneld is ${daemon.phase}` }
}

function findLeaseTrouble({ daemon }: HostFacts): Finding | undefined {
  const what = daemon?.troubles['lease'] ?? daemon?.notes['lease']
  return what === undefined ? undefined : { what }
}

/** Every other host is reached by an interface that we do not use. */
function findWrongInterface({ daemon, ways }: HostFacts): Finding | undefined {
  const used = daemon?.underlay
  // A record of our own, from before, is no other host's.
  const others = [...ways.values()].filter(way => way?.device !== 'lo')
  const devices = new Set(others.map(way => way?.device))
  const [device] = devices
  if (used === undefined || devices.size !== 1) return undefined
  if (device === undefined || device === used.device) return undefined
  return {
    what: `flanneld uses ${used.device} (${used.addresses.join(' and ')}), and every other host is reached by ${device}`,
    mend: `flanneld --iface=${device}`,
  }
}

function findForwardingOff({
  sysctls,
  daemon,
  networks,
}: HostFacts): Finding | undefined {
  const device = daemon?.backend?.device ?? ''
  const has = (family: Family): boolean =>
    networks.some(network => network.family === family)
  const paths = [
    ...(has(4) || !has(6)
      ? ['net/ipv4/ip_forward', `net/ipv4/conf/${device}/forwarding`]
      : []),
    ...(has(6) ? ['net/ipv6/conf/all/forwarding'] : []),
  ]
  const path = paths.find(each => sysctls.get(each) === '0')
  return path === undefined
    ? undefined
    : {
        what: `${sysctlName(path)} is 0: this host passes no packet on between containers and other hosts`,
        mend: `sysctl -w ${sysctlName(path)}=1`,
      }
}

/** As sysctl(8) takes it: with slashes where a name in it has dots. */
function sysctlName(path: string): string {
  return path.includes('.') ? path : path.replaceAll('/', '.')
}

/** Packets that come by the one interface and would be answered by another. */
function findStrictFilter({ daemon, ways, sysctls }: HostFacts): Finding | undefined {
  const device = daemon?.underlay?.device
  if (device === undefined) return undefined
  const path = `net/ipv4/conf/${device}/rp_filter`
  const modes = [sysctls.get(path), sysctls.get('net/ipv4/conf/all/rp_filter')]
  // The higher of the two counts (ip-sysctl.rst).
  if (!modes.includes(RP_FILTER_STRICT) || modes.includes(RP_FILTER_LOOSE))
    return undefined
  for (const [address, way] of ways)
    if (
      parseAddress(address).family === 4 &&
      way !== undefined &&
      way.device !== device &&
      way.device !== 'lo'
    )
      return {
        what: `the kernel drops what comes from ${address} by ${device}: its strict rp_filter wants it to come by ${way.device}, by which ${address} is reached`,
        mend: `sysctl -w ${sysctlName(path)}=${RP_FILTER_LOOSE}`,
      }
  return undefined
}

function findClosedPort(facts: HostFacts): Finding | undefined {
  const { daemon, ways, filters } = facts
  const { device = '', addresses = [], carrier = '' } = daemon?.underlay ?? {}
  const port = Number(/^UDP (\d+)$/.exec(carrier)?.[1])
  if (Number.isNaN(port)) return undefined
  for (const remote of ways.keys()) {
    const source = parseAddress(remote)
    const local = addresses
      .map(parseAddress)
      .find(({ family }) => family === source.family)
    if (local === undefined) continue
    const refusal = findRefusal(filters, 'INPUT', {
      in: device,
      source,
      destination: local,
      protocol: 'udp',
      port,
    })
    if (refusal !== undefined)
      return {
        what: `the firewall of this host drops ${carrier} from ${remote} (${describeRefusal(refusal)})`,
        mend: `${refusal.program} -I INPUT -i ${device} -p udp --dport ${port} -j ACCEPT`,
      }
  }
  return undefined
}

function findForwardRefusal(facts: HostFacts): Finding | undefined {
  for (const own of facts.subnet) {
    const remotes = (facts.daemon?.remotes ?? []).flatMap(each => {
      const range = parseSubnetText(each.subnet).find(
        ({ family }) => family === own.family,
      )
      const remote = range && baseAddress(range)
      return remote === undefined ? [] : [{ remote, device: deviceFor(each, remote) }]
    })
    // One that the backend can use, where it has routes of its own.
    const any = remotes.find(({ device }) => device !== undefined) ?? remotes[0]
    const finding =
      any && findForwardRefusalBetween(facts, { local: firstHostAddress(own), ...any })
    if (finding !== undefined) return finding
  }
  return undefined
}

/** By which packets to an address of a remote leave. */
export function deviceFor(
  { subnet, device, devices }: RemoteFacts,
  address: Address,
): string | undefined {
  const family = parseSubnetText(subnet).findIndex(range =>
    containsAddress(range, address),
  )
  return devices?.[family] ?? device
}

/** Whether packets between a container of this host and a remote are let through, both ways. */
export function findForwardRefusalBetween(
  facts: HostFacts,
  ends: {
    readonly local: Address
    readonly remote: Address
    /** By which packets to the remote leave; the backend's unless given. */
    readonly device?: string | undefined
  },
): Finding | undefined {
  const { local, remote, device = facts.daemon?.backend?.device } = ends
  const bridge = findBridge(facts)
  const network = facts.networks.find(({ family }) => family === local.family)
  if (device === undefined || bridge === undefined || network === undefined)
    return undefined
  const isPassedOn = isAmong(facts.subnet, local) && !isAmong(facts.subnet, remote)
  if (!isPassedOn) return undefined
  const ways = [
    { in: device, out: bridge.name, source: remote, destination: local },
    { in: bridge.name, out: device, source: local, destination: remote },
  ]
  for (const way of ways) {
    const refusal = findRefusal(facts.filters, 'FORWARD', { ...way, protocol: 'icmp' })
    if (refusal === undefined) continue
    const range = formatPrefix(network)
    return {
      what: `the firewall of this host drops packets from ${way.in} to ${way.out} (${describeRefusal(refusal)})`,
      mend: `${refusal.program} -I FORWARD -s ${range} -d ${range} -j ACCEPT`,
    }
  }
  return undefined
}

export function describeRefusal({ program, chain, rule }: Refusal): string {
  return rule === undefined ? `${program} -P ${chain} DROP` : `${program} ${rule}`
}

/** The bridge of this host's containers: what has an address of our subnet, and is not our device. */
export function findBridge({ host, subnet, ownDevices }: HostFacts): Link | undefined {
  return host.links.find(
    ({ name, addresses }) =>
      !ownDevices.has(name) &&
      addresses.some(({ local }) => isAmong(subnet, parseAddress(local))),
  )
}

/** Docker's bridge is at the address of a former subnet, or at Docker's own choice. */
function findOtherBridge(facts: HostFacts): Finding | undefined {
  const { host, subnet } = facts
  const docker = host.links.find(({ name }) => name === 'docker0')
  const address = docker?.addresses.find(({ family }) => family === 4)
  if (address === undefined || subnet.length === 0 || findBridge(facts) !== undefined)
    return undefined
  return {
    what: `docker0 is at ${address.local}/${address.prefixLength}, and the subnet of this host is ${subnet.map(formatPrefix).join(' and ')}: Docker's bip does not follow subnet.env`,
    mend: 'flannelctl docker-opts -d /run/flannel/docker.env && systemctl restart docker',
  }
}

function findLongBridge(facts: HostFacts): Finding | undefined {
  const bridge = findBridge(facts)
  const mtu = facts.daemon?.backend?.mtu
  if (bridge === undefined || mtu === undefined || bridge.mtu <= mtu) return undefined
  if (bridge.kind !== 'bridge') return undefined
  return {
    what: `${bridge.name} takes packets of ${bridge.mtu} bytes, and the overlay of ${mtu}: Docker's mtu does not follow subnet.env`,
    mend: `ip link set ${bridge.name} mtu ${mtu}`,
  }
}

export function isOwnAddress({ host }: HostFacts, address: Address): boolean {
  return host.links.some(({ addresses }) =>
    addresses.some(({ local }) => sameAddress(parseAddress(local), address)),
  )
}
