import { setTimeout as sleep } from 'node:timers/promises'
import { publicAddressOf } from '../../lib/subnet/subnet-record.js'
import { formatScaled } from '../flanneld/format-scaled.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { type DaemonStatus, askDaemon, askLeaseTimes } from './daemon-status.js'
import { RemoteTraffic, ratesOf } from './remote-traffic.js'
import { formatSeconds, formatTable } from './table.js'

const RATE_MS = 1000

export const peersCommand = defineCommand({
  help: `
flannelctl peers [flags]

Says of each remote whether packets reach it, as the daemon measures it all the
time: with pings to its public IP, pings through the overlay, and packets of the full
size. STATE is
  up           it answers through the overlay (host-gw: at its public IP)
  silent       it answers at its public IP, but not through the overlay
  unreachable  it does not answer
  unknown      the daemon has not asked for long enough
RTT and LOSS are those of the latest twenty pings to the public IP; OVERLAY the time
through the overlay; MTU the longest packet that gets to the public IP; LEASE how long
etcd keeps its record, if nobody renews that. --rate counts for a second what goes to and
comes from each.

  flannelctl peers
  flannelctl peers --rate
  flannelctl peers --json | jq '.peers[] | select(.state != "up")'

Exits with ${EXIT.trouble} when there is something wrong with the way to a remote.`,
  flags: {
    ...COMMON_FLAGS,
    rate: {
      type: 'boolean',
      default: 'false',
      describe: 'count for a second what goes to and comes from each (needs nft)',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('peers', words)
    const status = await askDaemon(flags)
    if (status?.remotes === undefined)
      throw new CommandFailure(
        `flanneld ${status === undefined ? 'does not run' : `is ${status.phase}`} on this host; flannelctl leases shows what etcd knows`,
      )
    const times = status.etcdReachable
      ? await askLeaseTimes(flags)
      : new Map<string, number | null>()
    const rates = flags.rate ? await readRates(status.remotes) : undefined
    const peers = status.remotes.map(remote => ({
      ...toPeer(remote),
      leaseExpiresInSeconds: times.get(remote.subnet) ?? null,
      ...rates?.(remote.subnet),
    }))
    const unprobed = status.probes?.trouble ?? null
    if (flags.json) printJson({ peers, notProbed: unprobed })
    else print(peers, unprobed)
    return peers.every(({ trouble }) => trouble === null) ? EXIT.ok : EXIT.trouble
  },
})

interface Rates {
  readonly sentBytesPerSecond: number
  readonly receivedBytesPerSecond: number
}

/** What goes to and comes from each subnet, over a second. Throws CommandFailure. */
async function readRates(remotes: readonly Remote[]): Promise<(subnet: string) => Rates> {
  try {
    const traffic = await RemoteTraffic.open(remotes.map(({ subnet }) => subnet))
    try {
      const [before, at] = [await traffic.read(), performance.now()]
      await sleep(RATE_MS)
      const rates = ratesOf(before, await traffic.read(), (performance.now() - at) / 1000)
      return subnet => ({
        sentBytesPerSecond: Math.round(rates.get(subnet)?.sentBytes ?? 0),
        receivedBytesPerSecond: Math.round(rates.get(subnet)?.receivedBytes ?? 0),
      })
    } finally {
      await traffic.close()
    }
  } catch (error) {
    throw new CommandFailure(`cannot count packets: ${(error as Error).message}`)
  }
}

interface Peer extends Measured, Partial<Rates> {
  readonly leaseExpiresInSeconds: number | null
}

/** What the daemon knows of it. */
interface Measured {
  readonly subnet: string
  readonly hostId: string | null
  readonly publicIp: string
  readonly state: string
  readonly roundTripMs: number | null
  readonly loss: number | null
  readonly overlayRoundTripMs: number | null
  readonly overlayLoss: number | null
  readonly pathMtu: number | null
  /** Seconds since the last handshake; absent without such sessions. */
  readonly handshakeSeconds?: number | null
  readonly sentBytes?: number
  readonly receivedBytes?: number
  readonly trouble: string | null
}

type Remote = NonNullable<DaemonStatus['remotes']>[number]

function toPeer({ subnet, record, path, session }: Remote): Measured {
  const { trouble: sessionTrouble = null, ...counters } = session ?? {}
  const state = path?.state ?? 'unknown'
  // No handshake is the cause where the host is there and nothing comes through.
  const isCause = state === 'silent' || session?.handshakeSeconds === null
  const pathTrouble = path?.trouble ?? null
  return {
    subnet,
    hostId: record.HostID ?? null,
    publicIp: publicAddressOf(record),
    state,
    roundTripMs: path?.roundTripMs ?? null,
    loss: path?.loss ?? null,
    overlayRoundTripMs: path?.overlayRoundTripMs ?? null,
    overlayLoss: path?.overlayLoss ?? null,
    pathMtu: path?.pathMtu ?? null,
    ...counters,
    trouble:
      state !== 'unreachable' && isCause ? (sessionTrouble ?? pathTrouble) : pathTrouble,
  }
}

interface Column {
  readonly name: string
  readonly cell: (peer: Peer) => string
  /** Where no peer has it, it is left out. */
  readonly isThere?: (peer: Peer) => boolean
}

const COLUMNS: readonly Column[] = [
  { name: 'SUBNET', cell: ({ subnet }) => subnet },
  { name: 'PUBLIC IP', cell: ({ publicIp }) => publicIp },
  { name: 'STATE', cell: ({ state }) => state },
  { name: 'RTT', cell: ({ roundTripMs }) => formatTime(roundTripMs) },
  {
    name: 'LOSS',
    cell: ({ loss }) => (loss === null ? '-' : `${Math.round(loss * 100)}%`),
  },
  { name: 'OVERLAY', cell: ({ overlayRoundTripMs }) => formatTime(overlayRoundTripMs) },
  { name: 'MTU', cell: ({ pathMtu }) => (pathMtu === null ? '-' : String(pathMtu)) },
  {
    name: 'LEASE',
    cell: ({ leaseExpiresInSeconds: left }) =>
      left === null ? '-' : formatSeconds(left),
  },
  {
    name: 'HANDSHAKE',
    cell: ({ handshakeSeconds }) => formatAge(handshakeSeconds),
    isThere: ({ handshakeSeconds }) => handshakeSeconds !== undefined,
  },
  {
    name: 'SENT',
    cell: ({ sentBytesPerSecond }) => formatRate(sentBytesPerSecond),
    isThere: ({ sentBytesPerSecond }) => sentBytesPerSecond !== undefined,
  },
  {
    name: 'RECEIVED',
    cell: ({ receivedBytesPerSecond }) => formatRate(receivedBytesPerSecond),
    isThere: ({ receivedBytesPerSecond }) => receivedBytesPerSecond !== undefined,
  },
]

function formatRate(bytes: number | undefined): string {
  return bytes === undefined ? '-' : `${formatScaled(bytes * 8)}bit/s`
}

function print(peers: readonly Peer[], unprobed: string | null): void {
  if (peers.length === 0) {
    process.stdout.write('no other host has a subnet\n')
    return
  }
  const columns = COLUMNS.filter(({ isThere = () => true }) => peers.some(isThere))
  const rows = peers.map(peer => columns.map(({ cell }) => cell(peer)))
  process.stdout.write(
    formatTable(
      columns.map(({ name }) => name),
      rows,
    ),
  )
  for (const { subnet, trouble } of peers)
    if (trouble !== null) process.stdout.write(`${subnet}: ${trouble}\n`)
  if (unprobed !== null)
    process.stdout.write(`the ways to them are not measured: ${unprobed}\n`)
}

function formatTime(milliseconds: number | null): string {
  return milliseconds === null ? '-' : `${milliseconds.toFixed(2)} ms`
}

function formatAge(seconds: number | null | undefined): string {
  if (seconds === undefined) return '-'
  return seconds === null ? 'never' : `${formatSeconds(seconds)} ago`
}
