import { setTimeout as sleep } from 'node:timers/promises'
import { publicAddressOf } from '../../lib/subnet/subnet-record.js'
import { formatScaled } from '../flanneld/format-scaled.js'
import { UsageError } from '../flanneld/parse-flags.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  refuseWords,
} from './command.js'
import { type StatusFlags, askDaemon } from './daemon-status.js'
import { interruption } from './interruption.js'
import { RemoteTraffic, type Traffic, ratesOf } from './remote-traffic.js'
import { formatTable } from './table.js'

/** ECMA-48: to the upper left corner, and clear what is behind each line and below. */
const HOME = '\u001b[H'
const CLEAR_LINE = '\u001b[K'
const CLEAR_BELOW = '\u001b[J'

export const topCommand = defineCommand({
  help: `
flannelctl top [flags]

Shows what this host and each remote send each other at the moment, the busiest first,
until Ctrl-C. Counts packets as containers see them, whichever backend carries them (a
packet that the kernel cuts up later counts once). nftables does the counting, in a
table that is gone when this ends; nothing is counted when nobody looks.

  flannelctl top
  flannelctl top --interval=5 --count=1
  flannelctl top --json | jq -c '[.remotes[0].subnet, .remotes[0].sentBytesPerSecond]'

With --json, or where it is not a terminal, every reading is printed below the last.`,
  flags: {
    ...COMMON_FLAGS,
    interval: {
      type: 'integer',
      default: '1',
      describe: 'seconds from one reading to the next, 1 to 3600',
      environment: false,
    },
    count: {
      type: 'integer',
      default: '0',
      describe: 'readings, after which it ends; 0 for no end',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('top', words)
    const { interval, count } = flags
    if (interval < 1 || interval > 3600)
      throw new UsageError(`--interval is ${interval}; it takes 1 to 3600`)
    if (count < 0) throw new UsageError(`--count is ${count}; it takes 0 and more`)
    const stop = interruption()
    const print = flags.json ? printJsonLine : printText
    try {
      await follow(flags, { seconds: interval, count }, print, stop)
    } catch (error) {
      // Ctrl-C is told to nft as well, which then answers nothing.
      if (!stop.aborted) throw toFailure(error)
    }
    return EXIT.ok
  },
})

interface Busy extends Traffic {
  readonly subnet: string
  readonly publicIp: string
}

type Print = (remotes: readonly Busy[]) => void

async function follow(
  flags: StatusFlags,
  { seconds, count }: { readonly seconds: number; readonly count: number },
  print: Print,
  signal: AbortSignal,
): Promise<void> {
  let names = await readNames(flags)
  let traffic = await open(names)
  try {
    let [before, at] = [await traffic.read(), performance.now()]
    for (let turn = 0; turn < count || count === 0; turn++) {
      await sleep(seconds * 1000, undefined, { signal }).catch(() => undefined)
      if (signal.aborted) return
      const [after, now] = [await traffic.read(), performance.now()]
      const rates = ratesOf(before, after, (now - at) / 1000)
      print(sorted(rates, names))
      ;[before, at] = [after, now]
      const next = await readNames(flags).catch(() => names)
      if (sameKeys(names, next)) continue
      // Others have come or gone.
      await traffic.close()
      names = next
      traffic = await open(names)
      ;[before, at] = [await traffic.read(), performance.now()]
    }
  } finally {
    await traffic.close()
  }
}

/** Public addresses of the remotes, by their subnets. */
async function readNames(flags: StatusFlags): Promise<ReadonlyMap<string, string>> {
  const status = await askDaemon(flags)
  if (status?.remotes === undefined)
    throw new CommandFailure(
      `flanneld ${status === undefined ? 'does not run' : `is ${status.phase}`} on this host; flannelctl status says why`,
    )
  return new Map(
    status.remotes.map(
      remote => [remote.subnet, publicAddressOf(remote.record)] as const,
    ),
  )
}

async function open(names: ReadonlyMap<string, string>): Promise<RemoteTraffic> {
  return await RemoteTraffic.open([...names.keys()])
}

function sameKeys(
  a: ReadonlyMap<string, unknown>,
  b: ReadonlyMap<string, unknown>,
): boolean {
  return a.size === b.size && [...a.keys()].every(key => b.has(key))
}

function toFailure(error: unknown): Error {
  return error instanceof CommandFailure
    ? error
    : new CommandFailure(`cannot count packets: ${(error as Error).message}`)
}

/** The busiest first. */
function sorted(
  rates: ReadonlyMap<string, Traffic>,
  names: ReadonlyMap<string, string>,
): Busy[] {
  const bytes = ({ sentBytes, receivedBytes }: Traffic): number =>
    sentBytes + receivedBytes
  return Array.from(rates, ([subnet, rate]) => ({
    subnet,
    publicIp: names.get(subnet) ?? '',
    ...rate,
  })).sort((a, b) => bytes(b) - bytes(a))
}

function printJsonLine(remotes: readonly Busy[]): void {
  const line = {
    time: new Date().toISOString(),
    remotes: remotes.map(each => ({
      subnet: each.subnet,
      publicIp: each.publicIp,
      sentBytesPerSecond: Math.round(each.sentBytes),
      sentPacketsPerSecond: Math.round(each.sentPackets),
      receivedBytesPerSecond: Math.round(each.receivedBytes),
      receivedPacketsPerSecond: Math.round(each.receivedPackets),
    })),
  }
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

function printText(remotes: readonly Busy[]): void {
  const text = formatRates(remotes)
  const { isTTY, rows } = process.stdout
  if (!isTTY) {
    process.stdout.write(`${text}\n`)
    return
  }
  const lines = text.split('\n').slice(0, rows - 1)
  // As bytes: of a text, what moves the cursor would be shown.
  const screen = `${HOME}${lines.join(`${CLEAR_LINE}\n`)}${CLEAR_BELOW}`
  process.stdout.write(Buffer.from(screen))
}

/** Bits, as networks are measured, and packets a second. */
export function formatRates(remotes: readonly Busy[]): string {
  if (remotes.length === 0) return 'no other host has a subnet\n'
  const all = { subnet: 'all', publicIp: '', ...total(remotes) }
  const header = ['SUBNET', 'PUBLIC IP', 'SENT', 'PACKETS', 'RECEIVED', 'PACKETS']
  const rows = [all, ...remotes].map(each => [
    each.subnet,
    each.publicIp,
    `${formatScaled(each.sentBytes * 8)}bit/s`,
    `${formatScaled(each.sentPackets)}/s`,
    `${formatScaled(each.receivedBytes * 8)}bit/s`,
    `${formatScaled(each.receivedPackets)}/s`,
  ])
  return formatTable(header, rows)
}

function total(remotes: readonly Traffic[]): Traffic {
  const sum = (name: keyof Traffic): number =>
    remotes.reduce((all, each) => all + each[name], 0)
  return {
    sentPackets: sum('sentPackets'),
    sentBytes: sum('sentBytes'),
    receivedPackets: sum('receivedPackets'),
    receivedBytes: sum('receivedBytes'),
  }
}
