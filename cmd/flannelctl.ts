#!/usr/bin/env node
import { BackendError } from '../lib/backend/errors.js'
import { SubnetError } from '../lib/subnet/errors.js'
import { type Command, CommandFailure, EXIT } from './flannelctl/command.js'
import { configCommand } from './flannelctl/config.js'
import { dockerOptsCommand } from './flannelctl/docker-opts.js'
import { leasesCommand } from './flannelctl/leases.js'
import { routesCommand } from './flannelctl/routes.js'
import { statusCommand } from './flannelctl/status.js'
import { describeUnknown } from './flanneld/edit-distance.js'
import { UsageError } from './flanneld/parse-flags.js'
import { VERSION } from './flanneld/version.js'

const COMMANDS: readonly Command[] = [
  statusCommand,
  leasesCommand,
  routesCommand,
  configCommand,
  dockerOptsCommand,
]

process.exitCode = await main(process.argv.slice(2))

async function main([name, ...args]: readonly string[]): Promise<number> {
  // A reader such as head(1) that has seen enough is no failure of ours.
  process.stdout.on('error', () => {
    process.exit(EXIT.ok)
  })
  if (name === undefined || /^--?(h|help)$/.test(name) || name === 'help') {
    process.stdout.write(helpText())
    return name === undefined ? EXIT.usage : EXIT.ok
  }
  if (/^--?version$/.test(name)) {
    process.stdout.write(`${VERSION}\n`)
    return EXIT.ok
  }
  try {
    return await find(name).run(args)
  } catch (error) {
    return report(error)
  }
}

function find(name: string): Command {
  const command = COMMANDS.find(candidate => candidate.name === name)
  if (command !== undefined) return command
  const names = COMMANDS.map(candidate => candidate.name)
  throw new UsageError(describeUnknown('command', name, names))
}

/** Prints what went wrong in one line. A stack is for mistakes of ours alone. */
function report(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`flannelctl: ${error.message}\n`)
    return EXIT.usage
  }
  if (
    error instanceof CommandFailure ||
    error instanceof SubnetError ||
    error instanceof BackendError
  ) {
    process.stderr.write(`flannelctl: ${error.message}\n`)
    return EXIT.failure
  }
  throw error
}

function helpText(): string {
  const width = Math.max(...COMMANDS.map(({ name }) => name.length))
  const list = COMMANDS.map(
    ({ name, summary }) => `  ${name.padEnd(width)}  ${summary}\n`,
  )
  return `flannelctl COMMAND [flags] [arguments]

Looks at this host's part in the overlay network, and at the network in etcd.

${list.join('')}
flannelctl COMMAND --help tells more. etcd is found by flanneld's flags and
FLANNELD_* variables.

Exit codes: ${EXIT.ok} fine, ${EXIT.failure} failed, ${EXIT.usage} wrong usage, ${EXIT.trouble} answered, and the answer is trouble.
`
}
