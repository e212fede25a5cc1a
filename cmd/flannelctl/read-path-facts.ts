import { pino } from 'pino'
import type { HostFacts, RemoteFacts } from '../../lib/diagnosis/host-facts.js'
import { isOwnAddress } from '../../lib/diagnosis/host-checks.js'
import type { PathFacts } from '../../lib/diagnosis/path-facts.js'
import { type ArpProbe, findAddressRival } from '../../lib/linux/arp-probe.js'
import { IcmpSocket } from '../../lib/linux/icmp-socket.js'
import { listFdb, listNeighbours } from '../../lib/linux/ip-neighbours.js'
import { type NextHopDevice, routesTo } from '../../lib/linux/ip-routes.js'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { Prober } from '../../lib/probe/prober.js'
import { systemClock } from '../../lib/subnet/clock.js'
import {
  type Address,
  type Prefix,
  addressBytes,
  baseAddress,
  containsAddress,
  firstHostAddress,
  formatAddress,
  formatPrefix,
  parseAddress,
  sameAddress,
  isAmong,
} from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'
import { readTables } from './read-host-facts.js'
import { isCarrying } from '../flanneld/probe-remotes.js'
import { CommandFailure } from './command.js'

/** One remote may be asked more often than a daemon asks all of them. */
const PROBE_RATE = 40
const TURN_MS = 25
const PROBE_TIMEOUT_MS = 500

/** Until then it is clear who answers, and mostly how long a packet may be. */
const MEASURE_MS = 8000

const POLL_MS = 50

/**
 * Looks at the way between two addresses, one of which is on this host. Undefined
 * when this host has no subnet. Throws CommandFailure for addresses that are none
 * of the overlay's or none of this host's.
 */
export async function readPathFacts(
  facts: HostFacts,
  ends: readonly [Address, Address],
): Promise<PathFacts | undefined> {
  const { subnet, networks, daemon } = facts
  if (subnet.length === 0) return undefined
  const [a, b] = [overlayEnd(facts, ends[0]), overlayEnd(facts, ends[1])]
  const isKnown = [a, b].every(({ address }) => isAmong(networks, address))
  // Without its remotes nobody knows whose address that is.
  if (daemon?.remotes === undefined && !isKnown) return undefined
  checkEnds(facts, a.address, b.address)
  const [here, there] = isAmong(subnet, a.address) ? [a, b] : [b, a]
  const remote = daemon?.remotes?.find(({ subnet: text }) =>
    isAmong(parseSubnetText(text), there.address),
  )
  const [way] = await routesTo([formatAddress(there.address)])
  const locals = [here, there].filter(
    ({ address, isHost }) => !isHost && isAmong(subnet, address),
  )
  return {
    ...facts,
    here: here.address,
    there: there.address,
    remote,
    way,
    silent: await findSilent(
      facts,
      locals.map(({ address }) => address),
    ),
    vxlan: await readVxlan(facts, way),
    measured: remote && (await measure(facts, remote, there.address)),
    natTables: facts.isRoot ? await readTables('nat') : [],
  }
}

/** Throws CommandFailure. */
function checkEnds({ subnet, networks }: HostFacts, a: Address, b: Address): void {
  const [first, second] = [formatAddress(a), formatAddress(b)]
  if (a.family !== b.family)
    throw new CommandFailure(
      `${first} and ${second} are of two families: no packet has both`,
    )
  if (!isAmong(subnet, a) && !isAmong(subnet, b))
    throw new CommandFailure(
      `neither ${first} nor ${second} is on this host (${subnet.map(formatPrefix).join(' and ')}); ask on a host that has one of them: flannelctl leases`,
    )
  for (const end of [a, b])
    if (!isAmong(networks, end))
      throw new CommandFailure(
        `${formatAddress(end)} is no address of the network ${networks.map(formatPrefix).join(' and ')}, nor of a host that has a part of it`,
      )
}

interface End {
  readonly address: Address
  /** It was given as an address of a host. */
  readonly isHost: boolean
}

/** Of a host: its address in the overlay. */
function overlayEnd(facts: HostFacts, end: Address): End {
  const { daemon, subnet, networks, publicIp } = facts
  if (isAmong(networks, end)) return { address: end, isHost: false }
  const isOwn =
    isOwnAddress(facts, end) || (publicIp !== undefined && isSame(publicIp, end))
  const remote = daemon?.remotes?.find(
    ({ record: { PublicIP, PublicIPv6 } }) =>
      isSame(PublicIP, end) || (PublicIPv6 && isSame(PublicIPv6, end)),
  )
  const ranges = isOwn ? subnet : ((remote && parseSubnetText(remote.subnet)) ?? [])
  // A host with one family in the overlay may be known by an address of the other.
  const range = ranges.find(({ family }) => family === end.family) ?? ranges[0]
  const address = range && overlayAddressOf(range, daemon?.underlay)
  return { address: address ?? end, isHost: true }
}

function isSame(text: string, address: Address): boolean {
  return sameAddress(parseAddress(text), address)
}

/** At which a host answers: on the device of the overlay, or on the bridge of its containers. */
export function overlayAddressOf(
  range: Prefix,
  underlay: { readonly isAnsweredAtBase: boolean } | undefined,
): Address {
  return underlay?.isAnsweredAtBase === false
    ? firstHostAddress(range)
    : baseAddress(range)
}

/** A container need not answer pings, but its kernel answers who has the address. */
async function findSilent(
  facts: HostFacts,
  locals: readonly Address[],
): Promise<Address[]> {
  const { links } = facts.host
  const ownMacs = new Set(links.flatMap(({ mac }) => mac ?? []))
  const asked = locals.filter(each => each.family === 4 && !isOwnAddress(facts, each))
  const ways = await routesTo(asked.map(formatAddress))
  return asked.filter((address, at) => {
    const link = links.find(({ name }) => name === ways[at]?.device)
    if (link?.mac === undefined) return false
    const { index: ifindex, mac } = link
    const owner = tryProbe({ ifindex, mac, ownMacs, address: addressBytes(address) })
    return owner === undefined
  })
}

/** Undefined when nobody has the address; '' when nobody knows, as without CAP_NET_RAW. */
function tryProbe(probe: ArpProbe): string | undefined {
  try {
    return findAddressRival(probe)
  } catch {
    return ''
  }
}

async function readVxlan(
  { host }: HostFacts,
  way: NextHopDevice | undefined,
): Promise<PathFacts['vxlan']> {
  const link = host.links.find(({ name }) => name === way?.device)
  if (link?.vxlan === undefined) return undefined
  const [neighbours, fdb] = await Promise.all([
    listNeighbours(4, link.name),
    listFdb(link.name),
  ])
  return { neighbours, fdb }
}

/** As the daemon chooses it: IPv4, unless this host has none on the underlay. */
function publicEnd(
  { record: { PublicIP, PublicIPv6 } }: RemoteFacts,
  { addresses }: { readonly addresses: readonly string[] },
): Address {
  const has4 = addresses.some(each => parseAddress(each).family === 4)
  const four = PublicIP === '0.0.0.0' ? undefined : PublicIP
  const six = PublicIPv6 ?? undefined
  return parseAddress((has4 ? (four ?? six) : (six ?? four)) ?? PublicIP)
}

/** Pings the remote on the underlay and through the overlay, and looks how long a packet may be. */
async function measure(
  { daemon }: HostFacts,
  remote: RemoteFacts,
  there: Address,
): Promise<PathFacts['measured']> {
  const underlay = daemon?.underlay
  const range = parseSubnetText(remote.subnet).find(each => containsAddress(each, there))
  if (underlay === undefined || range === undefined) return undefined
  const { carrier, hasMtuOption, isAnsweredAtBase, longest, ports } = underlay
  const clock = systemClock(bootTimeMs)
  const prober = new Prober({
    rate: PROBE_RATE,
    turnMs: TURN_MS,
    timeoutMs: PROBE_TIMEOUT_MS,
    longest,
    isOurs: isCarrying(new Set(ports)),
    open: IcmpSocket.open.bind(IcmpSocket),
    clock,
    log: pino({ level: 'silent' }),
  })
  prober.aimAt([
    {
      id: remote.subnet,
      underlay: publicEnd(remote, underlay),
      overlay: isAnsweredAtBase ? baseAddress(range) : undefined,
      carrier,
      hasMtuOption,
    },
  ])
  const stop = new AbortController()
  const running = prober.run(stop.signal)
  const end = clock.now() + MEASURE_MS
  for (;;) {
    const report = prober.report(remote.subnet)
    const isKnown =
      report?.state === 'up'
        ? report.pathMtu !== null
        : report !== undefined && report.state !== 'unknown'
    if (prober.trouble === undefined && !isKnown && clock.now() < end) {
      await clock.sleep(POLL_MS, stop.signal)
      continue
    }
    const { trouble } = prober
    stop.abort()
    await running
    if (trouble !== undefined) return { failure: trouble }
    return report
  }
}
