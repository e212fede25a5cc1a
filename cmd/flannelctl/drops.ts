import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { askDaemon } from './daemon-status.js'
import { formatTable } from './table.js'

/** What each reason means, and what to do about it. */
const EXPLAINED: Readonly<Record<string, string>> = {
  tooShort: 'shorter than an IP header',
  notIp: 'neither IPv4 nor IPv6',
  badHeader: 'a header that contradicts itself, or a wrong checksum',
  noPermit: 'this host was not allowed to forward: its lease had run out (status)',
  noRoute: 'no host leases the destination; the sender was told',
  sendFailed: 'the kernel did not take it: underlay down, or its buffers full',
  truncated: 'longer than a packet may be',
  unknownSender:
    'the outer address is of no host with a lease; if that host is behind NAT: --verify=inner, or SourceIPs in its record',
  wrongSource: "the source is not of the sender's subnet, or of none that is leased",
  wrongDestination: "the inner destination is not of this host's subnet",
  writeFailed: 'the kernel did not take it from us',
  foreignSource: "a container here sends from another host's subnet",
  tooBig: 'longer than the underlay takes, and not to be cut; the sender was told',
  congestion: 'marked for congestion on the way, and not able to carry the mark',
  fragment: 'a piece of an IPv6 datagram to the VXLAN port: its VNI cannot be read',
  reversePath:
    "a container's address that came by the underlay and is not reached by it (host-gw, DirectRouting)",
}

/** What a packet path, or the kernel for us, has dropped. */
interface DropsPart {
  readonly drops: Readonly<Record<string, number>>
  readonly offenders: readonly {
    readonly reason: string
    readonly outer: string | null
    readonly inner: string | null
    readonly count: number
  }[]
  readonly traffic?: Readonly<Record<string, number>>
}

export const dropsCommand = defineCommand({
  help: `
flannelctl drops [flags]

What this host's packet path has dropped since it started, or the kernel where it
carries the packets; why, and, for packets of other hosts, who sent the latest.

  flannelctl drops
  flannelctl drops --json | jq .drops

Exits with 1 when no daemon runs.`,
  flags: COMMON_FLAGS,
  run: async (flags, words) => {
    refuseWords('drops', words)
    const status = await askDaemon(flags)
    if (status === undefined)
      throw new CommandFailure('flanneld does not run on this host')
    const { path, verified } = (status.backend ?? {}) as Record<
      string,
      DropsPart | undefined
    >
    const part = path ?? verified
    if (part === undefined)
      throw new CommandFailure(
        `nothing on this host is dropped by flanneld: it is ${status.phase}, its backend ${status.backend?.type ?? 'not there'}, and verifies no source`,
      )
    const { drops, offenders } = part
    const socket = part.traffic?.['socketDrops'] ?? 0
    if (flags.json) printJson({ drops, socketDrops: socket, offenders })
    else print({ ...drops, ...(socket > 0 && { socketDrops: socket }) }, offenders)
    return EXIT.ok
  },
})

function print(
  drops: Readonly<Record<string, number>>,
  offenders: DropsPart['offenders'],
): void {
  const rows = Object.entries(drops)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => [String(count), reason, explain(reason)])
  if (rows.length === 0) {
    process.stdout.write('nothing was dropped\n')
    return
  }
  process.stdout.write(formatTable(['PACKETS', 'REASON', ''], rows))
  if (offenders.length === 0) return
  const senders = offenders
    .toSorted((a, b) => b.count - a.count)
    .map(({ outer, inner, reason, count }) => [
      outer ?? '-',
      inner ?? '-',
      reason,
      String(count),
    ])
  process.stdout.write(
    `\n${formatTable(['SENT BY', 'CLAIMED TO BE', 'REASON', 'PACKETS'], senders)}`,
  )
}

function explain(reason: string): string {
  if (reason === 'socketDrops')
    return "the socket's buffer was full: this host is too busy"
  return EXPLAINED[reason] ?? ''
}
