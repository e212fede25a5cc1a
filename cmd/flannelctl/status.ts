import { type JournalEvent, formatEvent, readJournal } from '../flanneld/journal.js'
import { placesOf } from '../flanneld/places.js'
import {
  CommandFailure,
  EXIT,
  COMMON_FLAGS,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { type DaemonStatus, askDaemon } from './daemon-status.js'
import { formatSeconds } from './table.js'

export const statusCommand = defineCommand({
  help: `
flannelctl status [flags]

Asks the daemon that runs on this host, over its Unix socket.

  flannelctl status
  flannelctl status --json | jq .troubles
  flannelctl status --etcd-prefix=/other/network

Exits with ${EXIT.failure} when no daemon runs, with ${EXIT.trouble} when one runs and is not well.`,
  flags: COMMON_FLAGS,
  run: async (flags, words) => {
    refuseWords('status', words)
    const status = await askDaemon(flags)
    if (status === undefined) {
      throw new CommandFailure(
        `no flanneld for --etcd-prefix ${flags['etcd-prefix']} runs on this host (looked in ${flags['run-dir']})`,
      )
    }
    const events = (await readJournal(placesOf(flags).journalFile)).slice(-MOST_EVENTS)
    if (flags.json) printJson({ ...status, events })
    else process.stdout.write(formatStatus(status, events))
    return isWell(status) ? EXIT.ok : EXIT.trouble
  },
})

/** Of what may be as long as the network is. */
const MOST_IGNORED = 5

/** The rest is for flannelctl lease history. */
const MOST_EVENTS = 3

function isWell({ phase, etcdReachable, troubles }: DaemonStatus): boolean {
  return phase === 'ready' && etcdReachable && Object.keys(troubles).length === 0
}

/** One screen: what runs, what is held, who is there, what is wrong, what happened last. */
function formatStatus(status: DaemonStatus, events: readonly JournalEvent[]): string {
  const { pid, phase, waitingFor, networks, lease, backend, remotes } = status
  const lines: [string, string][] = [
    [
      'daemon',
      `${phase}${waitingFor === undefined ? '' : `: ${waitingFor}`} (pid ${pid})`,
    ],
    [
      'etcd',
      status.etcdReachable
        ? 'answers'
        : lease === undefined
          ? 'does not answer'
          : 'does not answer; going on with the last known leases',
    ],
  ]
  if (networks !== undefined) lines.push(['network', networks.join(' and ')])
  if (lease !== undefined) {
    lines.push(
      ['subnet', `${lease.subnet}, ${formatExpiry(lease.expiresInSeconds)}`],
      ['host', `${lease.record.HostID ?? '-'} at ${lease.record.PublicIP}`],
    )
  }
  if (backend !== undefined) lines.push(['backend', formatBackend(backend)])
  const { ignoredRecords } = status
  if (remotes !== undefined) lines.push(['remotes', formatCount(remotes, ignoredRecords)])
  for (const [part, trouble] of Object.entries(status.troubles)) {
    lines.push(['trouble', `${part}: ${trouble}`])
  }
  for (const [part, note] of Object.entries(status.notes)) {
    lines.push(['note', `${part}: ${note}`])
  }
  for (const { key, why } of ignoredRecords.slice(0, MOST_IGNORED))
    lines.push(['ignored', `${key}: ${why}`])
  if (ignoredRecords.length > MOST_IGNORED) {
    const more = ignoredRecords.length - MOST_IGNORED
    lines.push(['ignored', `${more} more (flannelctl status --json has them)`])
  }
  if (lines.some(([name]) => name === 'trouble' || name === 'note'))
    lines.push(['help', 'flannelctl doctor names what is wrong and what mends it'])
  for (const event of events) lines.push(['lately', formatEvent(event)])
  return lines.map(([name, text]) => `${name.padEnd(8)} ${text}\n`).join('')
}

/** Hosts that we reach, by whether they answer, and records that we cannot use: of another backend type, perhaps. */
function formatCount(
  remotes: NonNullable<DaemonStatus['remotes']>,
  ignored: DaemonStatus['ignoredRecords'],
): string {
  const states = remotes.flatMap(({ path }) => path?.state ?? [])
  const counts = ['up', 'silent', 'unreachable'].flatMap(state => {
    const count = states.filter(each => each === state).length
    return count === 0 ? [] : [`${count} ${state}`]
  })
  const probed = counts.length === 0 ? '' : `: ${counts.join(', ')}`
  const more =
    ignored.length === 0 ? '' : `, and ${ignored.length} records not usable here`
  return `${remotes.length}${probed}${more}`
}

function formatExpiry(seconds: number | null): string {
  if (seconds === null) return 'reserved for this host'
  return seconds > 0
    ? `lease proven for another ${formatSeconds(seconds)}`
    : 'lease not proven any more'
}

function formatBackend({
  type,
  device,
  mtu,
  listen,
  carriedBy,
}: NonNullable<DaemonStatus['backend']>): string {
  const parts = [
    `${type} on ${device}`,
    ...(mtu === undefined ? [] : [`MTU ${mtu}`]),
    ...(listen === undefined ? [] : [`listening on ${listen}`]),
    ...(carriedBy === undefined ? [] : [`carried by ${carriedBy}`]),
  ]
  return parts.join(', ')
}
