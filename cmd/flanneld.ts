#!/usr/bin/env node
import { isIP } from 'node:net'
import type { Logger } from 'pino'
import { BackendError } from '../lib/backend/errors.js'
import { bootTimeMs } from '../lib/linux/libc.js'
import { systemClock } from '../lib/subnet/clock.js'
import { isName } from '../lib/names/skydns.js'
import { SubnetError } from '../lib/subnet/errors.js'
import { formatHelp, readCommandLine } from './flanneld/command-line.js'
import { type DaemonFlags, type StopHow, runDaemon } from './flanneld/daemon.js'
import { FileError } from './flanneld/files.js'
import { FLANNELD_FLAGS } from './flanneld/flag-table.js'
import { readListenAddress } from './flanneld/listen-address.js'
import { openLogger } from './flanneld/logger.js'
import { UsageError } from './flanneld/parse-flags.js'
import { StartError } from './flanneld/start-error.js'
import { readPublicIps } from './flanneld/this-host.js'
import { VERSION } from './flanneld/version.js'

const EXIT_FAILURE = 1
const EXIT_USAGE = 2

/** More processes would wait for each other. */
const MAX_QUEUES = 16

/** A millisecond is the shortest that a timer waits. */
const MAX_PROBE_RATE = 1000

const USAGE =
  'flanneld [flags]\nflanneld --version\n\nRuns the overlay network of this host.'

// Node's warnings about what libraries call are for developers, and tests show them.
process.noDeprecation = true
// Not by itself: a connection that is being made to a host that does not answer would hold it up for minutes.
process.exit(await main(process.argv.slice(2)))

async function main(args: readonly string[]): Promise<number> {
  if (args.some(arg => /^--?version(=true)?$/.test(arg))) {
    process.stderr.write(`${VERSION}\n`)
    return 0
  }
  if (args.some(arg => /^--?(help|h)$/.test(arg))) {
    process.stdout.write(await formatHelp(USAGE, FLANNELD_FLAGS))
    return 0
  }
  const isPasswordShown = args.some(arg => /^--?etcd-password(=|$)/.test(arg))
  let flags: DaemonFlags
  try {
    flags = readFlags(args)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`flanneld: ${error.message}\n`)
    return EXIT_USAGE
  }
  return await runUntilStopped(flags, isPasswordShown)
}

function readFlags(args: readonly string[]): DaemonFlags {
  const { flags, words } = readCommandLine(FLANNELD_FLAGS, args, process.env)
  const [word] = words
  if (word !== undefined)
    throw new UsageError(`unexpected argument ${JSON.stringify(word)}`)
  if (flags['iptables-resync'] <= 0)
    throw new UsageError('--iptables-resync must be at least 1')
  for (const [name, most] of [
    ['healthz-port', 65_535],
    // Which a user without privileges cannot listen on in our place.
    ['peer-port', 1023],
  ] as const)
    if (flags[name] < 0 || flags[name] > most)
      throw new UsageError(
        `--${name} is ${flags[name]}; it takes a port from 0 to ${most}`,
      )
  const queues = flags['udp-queues']
  if (queues < 1 || queues > MAX_QUEUES)
    throw new UsageError(
      `--udp-queues is ${queues}; it takes a number from 1 to ${MAX_QUEUES}`,
    )
  const rate = flags['probe-rate']
  if (rate < 0 || rate > MAX_PROBE_RATE)
    throw new UsageError(
      `--probe-rate is ${rate}; it takes a number from 0 to ${MAX_PROBE_RATE}`,
    )
  if (isIP(flags['healthz-ip']) === 0)
    throw new UsageError(
      `--healthz-ip is ${JSON.stringify(flags['healthz-ip'])}; it takes an IP address`,
    )
  if (flags['status-listen'] !== '')
    readListenAddress('status-listen', flags['status-listen'])
  const zone = flags['names-zone']
  if (zone !== '' && !isName(zone))
    throw new UsageError(
      `--names-zone is ${JSON.stringify(zone)}; it takes a name of the DNS in small letters, as containers.local`,
    )
  readPublicIps(flags)
  return flags
}

async function runUntilStopped(
  flags: DaemonFlags,
  isPasswordShown: boolean,
): Promise<number> {
  const log = openLogger(flags.v > 0 ? 'debug' : flags['log-level'], flags['log-format'])
  if (isPasswordShown) {
    log.warn('--etcd-password shows in the process list; prefer --etcd-password-file')
  }
  try {
    const stop = stopOnSignals()
    await runDaemon(flags, { clock: systemClock(bootTimeMs), log, stop, onReload })
    log.info('stopped')
    return 0
  } catch (error) {
    logFatal(log, error)
    return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE
  }
}

/** One clear line for what an operator can put right; the stack as well for a mistake of ours. */
function logFatal(log: Logger, error: unknown): void {
  if (!(error instanceof Error)) {
    log.fatal(String(error))
  } else if (isExpected(error)) {
    log.fatal({ code: 'code' in error ? error.code : undefined }, error.message)
  } else {
    log.fatal({ stack: error.stack }, error.message)
  }
}

function isExpected(error: Error): boolean {
  return (
    error instanceof BackendError ||
    error instanceof FileError ||
    error instanceof StartError ||
    error instanceof SubnetError ||
    error instanceof UsageError ||
    // The system's own errors: a directory that may not be written, a full disk.
    'errno' in error
  )
}

/** A terminal that hangs up ends what runs on it; a supervisor means: read your files again. */
function isOnTerminal(): boolean {
  return process.stdin.isTTY || process.stdout.isTTY
}

function onReload(act: () => void): void {
  if (!isOnTerminal()) process.on('SIGHUP', act)
}

/**
 * SIGTERM comes from a supervisor that starts us again soon: packets go on.
 * SIGINT comes from a person who wants it to end. The second signal kills.
 */
function stopOnSignals(): AbortSignal {
  const controller = new AbortController()
  const stopAs: Readonly<Record<string, StopHow>> = {
    SIGTERM: 'keep',
    SIGINT: 'end',
    ...(isOnTerminal() && { SIGHUP: 'end' }),
  }
  for (const [name, how] of Object.entries(stopAs)) {
    process.once(name, () => {
      controller.abort(how)
      for (const each of Object.keys(stopAs)) process.removeAllListeners(each)
    })
  }
  return controller.signal
}
