#!/usr/bin/env node
import yargs from 'yargs'
import { BackendError } from '../lib/backend/errors.js'
import { bootTimeMs } from '../lib/linux/libc.js'
import { systemClock } from '../lib/subnet/clock.js'
import { SubnetError } from '../lib/subnet/errors.js'
import { type DaemonFlags, type StopHow, runDaemon } from './flanneld/daemon.js'
import { type Flag, FLANNELD_FLAGS, environmentName } from './flanneld/flag-table.js'
import { openLogger } from './flanneld/logger.js'
import { UsageError, normalizeArguments, resolveFlags } from './flanneld/parse-flags.js'
import { VERSION } from './flanneld/version.js'

const EXIT_FAILURE = 1
const EXIT_USAGE = 2

process.exitCode = await main(process.argv.slice(2))

async function main(args: readonly string[]): Promise<number> {
  if (args.some(arg => /^--?version(=true)?$/.test(arg))) {
    process.stderr.write(`${VERSION}\n`)
    return 0
  }
  if (args.some(arg => /^--?(help|h)$/.test(arg))) {
    process.stdout.write(`${await helpText()}\n`)
    return 0
  }
  let flags: DaemonFlags
  try {
    flags = readFlags(args)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`flanneld: ${error.message}\n`)
    return EXIT_USAGE
  }
  return await runUntilStopped(flags)
}

function readFlags(args: readonly string[]): DaemonFlags {
  const normalized = normalizeArguments(args, FLANNELD_FLAGS)
  const given = yargs(normalized)
    .options(
      Object.fromEntries(
        Object.keys(FLANNELD_FLAGS).map(name => [name, { string: true }]),
      ),
    )
    .help(false)
    .version(false)
    .parserConfiguration({ 'camel-case-expansion': false, 'dot-notation': false })
    .parseSync()
  const flags = resolveFlags(FLANNELD_FLAGS, given, process.env)
  if (flags['iptables-resync'] <= 0)
    throw new UsageError('--iptables-resync must be at least 1')
  return flags
}

async function helpText(): Promise<string> {
  const shown = Object.entries<Flag>(FLANNELD_FLAGS).filter(([, flag]) => !flag.refused)
  const options = shown.map(([name, flag]) => [
    name,
    {
      describe: `${flag.describe} [${environmentName(name)}]`,
      type: flag.type === 'boolean' ? ('boolean' as const) : ('string' as const),
      ...(flag.default !== '' && { defaultDescription: flag.default }),
      ...(flag.choices && { choices: flag.choices }),
    },
  ])
  return await yargs()
    .scriptName('flanneld')
    .usage('$0 [flags]\n\nRuns the overlay network of this host.')
    .options(Object.fromEntries(options))
    .help('help')
    .version(false)
    .wrap(100)
    .getHelp()
}

async function runUntilStopped(flags: DaemonFlags): Promise<number> {
  const log = openLogger(flags.v > 0 ? 'debug' : flags['log-level'], flags['log-format'])
  if (flags['etcd-password'] !== '') {
    log.warn('--etcd-password shows in the process list; prefer --etcd-password-file')
  }
  try {
    await runDaemon(flags, { clock: systemClock(bootTimeMs), log, stop: stopOnSignals() })
    log.info('stopped')
    return 0
  } catch (error) {
    const expected =
      error instanceof BackendError ||
      error instanceof SubnetError ||
      error instanceof UsageError
    log.fatal(
      expected
        ? { code: 'code' in error ? error.code : undefined }
        : { stack: (error as Error).stack },
      (error as Error).message,
    )
    return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE
  }
}

/**
 * SIGTERM comes from a supervisor that starts us again soon: packets go on.
 * SIGINT comes from a person who wants it to end. The second signal kills.
 */
function stopOnSignals(): AbortSignal {
  const controller = new AbortController()
  const stopAs: Readonly<Record<'SIGTERM' | 'SIGINT', StopHow>> = {
    SIGTERM: 'keep',
    SIGINT: 'end',
  }
  for (const [name, how] of Object.entries(stopAs)) {
    process.once(name, () => {
      controller.abort(how)
      process.removeAllListeners('SIGTERM').removeAllListeners('SIGINT')
    })
  }
  return controller.signal
}
