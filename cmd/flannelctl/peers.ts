import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { type DaemonStatus, askDaemon } from './daemon-status.js'
import { formatSeconds, formatTable } from './table.js'

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
through the overlay; MTU the longest packet that gets to the public IP.

  flannelctl peers
  flannelctl peers --json | jq '.peers[] | select(.state != "up")'

Exits with ${EXIT.trouble} when there is something wrong with the way to a remote.`,
  flags: COMMON_FLAGS,
  run: async (flags, words) => {
    refuseWords('peers', words)
    const status = await askDaemon(flags)
    if (status?.remotes === undefined)
      throw new CommandFailure(
        `flanneld ${status === undefined ? 'does not run' : `is ${status.phase}`} on this host; flannelctl leases shows what etcd knows`,
      )
    const peers = status.remotes.map(toPeer)
    const unprobed = status.probes?.trouble ?? null
    if (flags.json) printJson({ peers, notProbed: unprobed })
    else print(peers, unprobed)
    return peers.every(({ trouble }) => trouble === null) ? EXIT.ok : EXIT.trouble
  },
})

interface Peer {
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

function toPeer({ subnet, record, path, session }: Remote): Peer {
  const { PublicIP, PublicIPv6, HostID } = record
  const { trouble: sessionTrouble = null, ...counters } = session ?? {}
  const state = path?.state ?? 'unknown'
  // No handshake is the cause where the host is there and nothing comes through.
  const isCause = state === 'silent' || session?.handshakeSeconds === null
  const pathTrouble = path?.trouble ?? null
  return {
    subnet,
    hostId: HostID ?? null,
    publicIp: PublicIP === '0.0.0.0' ? (PublicIPv6 ?? PublicIP) : PublicIP,
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

function print(peers: readonly Peer[], unprobed: string | null): void {
  if (peers.length === 0) {
    process.stdout.write('no other host has a subnet\n')
    return
  }
  const hasSessions = peers.some(peer => peer.handshakeSeconds !== undefined)
  const header = ['SUBNET', 'PUBLIC IP', 'STATE', 'RTT', 'LOSS', 'OVERLAY', 'MTU']
  const rows = peers.map(peer => [
    peer.subnet,
    peer.publicIp,
    peer.state,
    formatTime(peer.roundTripMs),
    peer.loss === null ? '-' : `${Math.round(peer.loss * 100)}%`,
    formatTime(peer.overlayRoundTripMs),
    peer.pathMtu === null ? '-' : String(peer.pathMtu),
    ...(hasSessions ? [formatAge(peer.handshakeSeconds)] : []),
  ])
  process.stdout.write(formatTable(hasSessions ? [...header, 'HANDSHAKE'] : header, rows))
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
