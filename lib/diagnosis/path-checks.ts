import { publicAddressOf } from '../subnet/subnet-record.js'
import {
  baseAddress,
  containsAddress,
  formatAddress,
  parsePrefix,
  isAmong,
} from '../subnet/prefix.js'
import { parseSubnetText, readSubnetKey, prefixesOf } from '../subnet/subnet-key.js'
import type { Check, Finding } from './check.js'
import {
  HOST_CHECKS,
  describeRefusal,
  deviceFor,
  findBridge,
  findForwardRefusalBetween,
  isOwnAddress,
} from './host-checks.js'
import type { RemoteFacts } from './host-facts.js'
import { findMasquerade } from './packet-filter.js'
import type { PathFacts } from './path-facts.js'

/** Packets flow all the same; forward-rules is asked of the packet itself. */
const NOT_OF_A_PACKET: ReadonlySet<string> = new Set([
  'etcd',
  'clock',
  'overlap',
  'docker',
  'lease',
  'forward-rules',
])

/** What keeps packets between two addresses from flowing, as far as this host can see. */
export const PATH_CHECKS: readonly Check<PathFacts>[] = [
  ...HOST_CHECKS.filter(({ name }) => !NOT_OF_A_PACKET.has(name)),
  { name: 'lease', after: ['daemon', 'duplicate-address'], find: findLostLease },
  { name: 'container', after: ['daemon', 'lease', 'bridge'], find: findSilent },
  { name: 'remote-lease', after: ['daemon', 'lease'], find: findUnleased },
  { name: 'route', after: ['remote-lease', 'leftovers', 'underlay'], find: findOtherWay },
  { name: 'neighbour', after: ['route'], find: findLostNeighbour },
  {
    name: 'forward-rules',
    after: ['forwarding', 'remote-lease'],
    // A host's own packets are not forwarded.
    find: facts =>
      isOwnAddress(facts, facts.here)
        ? undefined
        : findForwardRefusalBetween(facts, {
            local: facts.here,
            remote: facts.there,
            device: facts.way?.device,
          }),
  },
  {
    name: 'reach',
    after: [
      'duplicate-address',
      'interface',
      'rp-filter',
      'port',
      'route',
      'neighbour',
      'troubles',
    ],
    find: findUnreached,
  },
  { name: 'path-mtu', after: ['reach'], find: findShortPath },
  { name: 'masquerade', after: ['route', 'forward-rules'], find: findOtherSource },
]

/** One that cannot be renewed at the moment carries packets all the same. */
function findLostLease({ daemon }: PathFacts): Finding | undefined {
  const what = daemon?.troubles['lease']
  return what === undefined ? undefined : { what }
}

function findSilent({ silent: [first] }: PathFacts): Finding | undefined {
  return first === undefined
    ? undefined
    : {
        what: `nobody on this host has ${formatAddress(first)}: the container is not there, or not on the bridge of the overlay`,
      }
}

function isHere(facts: PathFacts): boolean {
  return isAmong(facts.subnet, facts.there)
}

function findUnleased(facts: PathFacts): Finding | undefined {
  const { remote, there, daemon } = facts
  if (remote !== undefined || isHere(facts)) return undefined
  const text = formatAddress(there)
  const ignored = daemon?.ignoredRecords.find(({ key }) => {
    const subnet = readSubnetKey(key)
    return subnet !== undefined && isAmong(prefixesOf(subnet), there)
  })
  if (ignored !== undefined)
    return { what: `the record of the subnet of ${text} cannot be used: ${ignored.why}` }
  const memory =
    daemon?.etcdReachable === false
      ? ', as far as this host knows: etcd does not answer'
      : ''
  return {
    what: `nobody leases the subnet of ${text}${memory}: the lease of its host has run out, or there is no such host`,
    mend: `systemctl start flanneld, on the host of ${text}`,
  }
}

/** Whether the kernel would take the way that the daemon has made. */
function findOtherWay(facts: PathFacts): Finding | undefined {
  const { remote, there, way, host } = facts
  const device = remote && deviceFor(remote, there)
  if (device === undefined || isThatWay(facts, device)) return undefined
  const text = formatAddress(there)
  const what =
    way === undefined
      ? `the kernel has no route to ${text}, which is reached by ${device}`
      : `packets to ${text} leave by ${describeWay(way)} instead of ${device}`
  const [route] = host.routes
    .filter(({ destination }) => containsAddress(parsePrefix(destination), there))
    .sort((a, b) => lengthOf(b.destination) - lengthOf(a.destination))
  const hop = route?.nextHops[0]?.device
  if (route === undefined || lengthOf(route.destination) === 0)
    return { what, mend: 'systemctl restart flanneld' }
  // The route is right, and yet is not asked.
  if (hop === device) return { what: `${what}: a rule of ip rule leads there` }
  const type = route.type === 'unicast' ? '' : `${route.type} `
  return {
    what,
    mend: `ip route delete ${type}${route.destination}${hop === undefined ? '' : ` dev ${hop}`}`,
  }
}

function isThatWay({ remote, way, daemon }: PathFacts, device: string): boolean {
  if (way?.device !== device) return false
  // The default route may leave by the same interface as plain routes to remotes.
  if (device !== daemon?.underlay?.device || remote === undefined) return true
  const { PublicIP, PublicIPv6 } = remote.record
  return way.gateway === PublicIP || way.gateway === PublicIPv6
}

function lengthOf(destination: string): number {
  return parsePrefix(destination).length
}

function describeWay({ device, gateway }: NonNullable<PathFacts['way']>): string {
  return gateway === undefined ? device : `${device} (by ${gateway})`
}

/** With vxlan the kernel knows the MAC address of each remote's device, and the host it is on. */
function findLostNeighbour({
  vxlan,
  way,
  remote,
  there,
}: PathFacts): Finding | undefined {
  if (vxlan === undefined || way === undefined || remote === undefined) return undefined
  const range = parseSubnetText(remote.subnet).find(each => containsAddress(each, there))
  const mac = vtepMac(remote)
  if (range?.family !== 4 || mac === undefined) return undefined
  const base = formatAddress(baseAddress(range))
  if (!vxlan.neighbours.some(each => each.address === base && each.mac === mac))
    return {
      what: `${way.device} does not know that ${base} is at ${mac}`,
      mend: `ip neigh replace ${base} lladdr ${mac} nud permanent dev ${way.device}`,
    }
  const host = remote.record.PublicIP
  if (!vxlan.fdb.some(each => each.mac === mac && each.destination === host))
    return {
      what: `${way.device} does not know that ${mac} is on ${host}`,
      mend: `bridge fdb replace ${mac} dev ${way.device} dst ${host} self permanent`,
    }
  return undefined
}

function vtepMac({ record: { BackendData } }: RemoteFacts): string | undefined {
  if (typeof BackendData !== 'object' || BackendData === null) return undefined
  const mac = (BackendData as Record<string, unknown>)['VtepMAC']
  return typeof mac === 'string' ? mac.toLowerCase() : undefined
}

function findUnreached({ measured, remote }: PathFacts): Finding | undefined {
  if (measured === undefined || remote === undefined) return undefined
  if ('failure' in measured) return undefined
  const { state, trouble, heard } = measured
  const host = publicAddressOf(remote.record)
  if (state === 'up') return undefined
  if (heard === 'noPort' || heard === 'noProtocol')
    return { what: trouble ?? state, mend: `systemctl start flanneld, on ${host}` }
  if (state === 'silent' || heard === 'refused')
    return { what: trouble ?? state, mend: `flannelctl doctor, on ${host}` }
  return { what: trouble ?? `${host} does not answer` }
}

function findShortPath({ measured, daemon }: PathFacts): Finding | undefined {
  if (measured === undefined || 'failure' in measured || measured.trouble === null)
    return undefined
  const { pathMtu, trouble } = measured
  const device = daemon?.underlay?.device
  const mend =
    pathMtu === null || device === undefined
      ? undefined
      : `ip link set ${device} mtu ${pathMtu}`
  return { what: trouble, mend }
}

/** The other end would see packets come from this host, and no container's rule would match. */
function findOtherSource(facts: PathFacts): Finding | undefined {
  const { here, there, way, natTables, daemon } = facts
  const bridge = findBridge(facts)
  if (way === undefined || bridge === undefined || isHere(facts)) return undefined
  if (isOwnAddress(facts, here)) return undefined
  const packet = {
    in: bridge.name,
    out: way.device,
    source: here,
    destination: there,
    protocol: 'icmp',
  } as const
  const refusal = findMasquerade(natTables, packet)
  return refusal?.rule === undefined
    ? undefined
    : {
        what: `packets to ${formatAddress(there)} are given the address of ${daemon?.backend?.device ?? way.device} for their source (${describeRefusal(refusal)}); is docker.env given to Docker?`,
        mend: `${refusal.program} -t nat ${refusal.rule.replace(/^-A/, '-D')}`,
      }
}
