import { pino } from 'pino'
import type { HostFacts, RemoteFacts } from '../../lib/diagnosis/host-facts.js'
import { isAmong, isOwnAddress } from '../../lib/diagnosis/host-checks.js'
import { publicAddressOf } from '../../lib/diagnosis/path-checks.js'
import type { PathFacts } from '../../lib/diagnosis/path-facts.js'
import { IcmpSocket } from '../../lib/linux/icmp-socket.js'
import {
  type NextHopDevice,
  findNeighbour,
  listFdb,
  listNeighbours,
  routesTo,
} from '../../lib/linux/iproute.js'
import { readKinds, saveTable } from '../../lib/linux/iptables.js'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { IcmpEcho } from '../../lib/probe/icmp-echo.js'
import { Prober } from '../../lib/probe/prober.js'
import { systemClock } from '../../lib/subnet/clock.js'
import {
  type Address,
  type Prefix,
  baseAddress,
  containsAddress,
  firstHostAddress,
  formatAddress,
  formatPrefix,
  parseAddress,
  sameAddress,
} from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'
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
  const { subnet, networks } = facts
  if (subnet.length === 0) return undefined
  const [a, b] = ends.map(end => overlayAddress(facts, end))
  if (a === undefined || b === undefined) return undefined
  if (a.family !== b.family)
    throw new CommandFailure(
      `${formatAddress(a)} and ${formatAddress(b)} are of two families: no packet has both`,
    )
  if (!isAmong(subnet, a) && !isAmong(subnet, b))
    throw new CommandFailure(
      `neither ${formatAddress(a)} nor ${formatAddress(b)} is on this host (${subnet.map(formatPrefix).join(' and ')}); ask on a host that has one of them: flannelctl leases`,
    )
  for (const end of [a, b])
    if (!isAmong(networks, end))
      throw new CommandFailure(
        `${formatAddress(end)} is no address of the network ${networks.map(formatPrefix).join(' and ')}, nor of a host that has a part of it`,
      )
  const [here, there] = isAmong(subnet, a) ? [a, b] : [b, a]
  const remote = facts.daemon?.remotes?.find(({ subnet: text }) =>
    isAmong(parseSubnetText(text), there),
  )
  const [way] = await routesTo([formatAddress(there)])
  const locals = [here, ...(isAmong(subnet, there) ? [there] : [])]
  return {
    ...facts,
    here,
    there,
    remote,
    way,
    silent: await findSilent(facts, locals),
    vxlan: await readVxlan(facts, way),
    measured: remote && (await measure(facts, remote, there)),
    natTables: await readNat(facts),
  }
}

/** Of a host: its address in the overlay. */
function overlayAddress(facts: HostFacts, end: Address): Address {
  const { daemon, subnet, networks, publicIp } = facts
  if (isAmong(networks, end)) return end
  const isOwn =
    isOwnAddress(facts, end) || (publicIp !== undefined && isSame(publicIp, end))
  const remote = daemon?.remotes?.find(each => isSame(publicAddressOf(each), end))
  const ranges = isOwn ? subnet : remote && parseSubnetText(remote.subnet)
  const range = ranges?.find(({ family }) => family === end.family)
  return range === undefined ? end : hostAddress(facts, range)
}

function isSame(text: string, address: Address): boolean {
  return sameAddress(parseAddress(text), address)
}

/** At which a host answers: on the device of the overlay, or on the bridge of its containers. */
function hostAddress({ daemon }: HostFacts, range: Prefix): Address {
  return daemon?.underlay?.isAnsweredAtBase === false
    ? firstHostAddress(range)
    : baseAddress(range)
}

/** A container need not answer pings, but its kernel answers who has the address. */
async function findSilent(
  facts: HostFacts,
  locals: readonly Address[],
): Promise<Address[]> {
  const asked = locals.filter(each => each.family === 4 && !isOwnAddress(facts, each))
  if (asked.length === 0) return []
  const echo = await IcmpEcho.open().catch(() => undefined)
  if (echo === undefined) return []
  try {
    const answers = await Promise.all(
      asked.map(async address => {
        const text = formatAddress(address)
        const time = await echo.ping(text, PROBE_TIMEOUT_MS)
        return time !== undefined || (await findNeighbour(text)) !== undefined
      }),
    )
    return asked.filter((_, at) => answers[at] === false)
  } finally {
    echo.close()
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

async function readNat({ isRoot }: HostFacts): Promise<PathFacts['natTables']> {
  if (!isRoot) return new Map()
  const { inUse } = await readKinds('iptables')
  const tables = inUse.map(async kind => {
    const saved = await saveTable('iptables', 'nat', kind).catch(() => '')
    return [`iptables${kind}`, saved] as const
  })
  return new Map(await Promise.all(tables))
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
      underlay: parseAddress(publicAddressOf(remote)),
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
