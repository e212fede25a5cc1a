#!/usr/bin/env node
import { BackendError } from '../lib/backend/errors.js'
import { SubnetError } from '../lib/subnet/errors.js'
import { CommandFailure, EXIT } from './flannelctl/command.js'
import { COMMANDS, type Entry, commandList } from './flannelctl/commands.js'
import { SETTINGS_FILES } from './flannelctl/unit-settings.js'
import { describeUnknown } from './flanneld/edit-distance.js'
import { FileError } from './flanneld/files.js'
import { UsageError } from './flanneld/parse-flags.js'
import { keepPlain } from './flanneld/plain-text.js'
import { VERSION } from './flanneld/version.js'

// Node's warnings about what libraries call are for developers, and tests show them.
process.noDeprecation = true
process.exit(await main(process.argv.slice(2)))

async function main([name, ...args]: readonly string[]): Promise<number> {
  // A reader such as head(1) that has seen enough is no failure of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.ok)
    process.stderr.write(`flannelctl: standard output: ${error.message}\n`)
    process.exit(EXIT.failure)
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
    // A lab paints what it says, and hands on what its programs print.
    if (name !== 'lab')
      for (const stream of [process.stdout, process.stderr]) keepPlain(stream)
    const command = await find(name).load()
    return await command.run(args)
  } catch (error) {
    return report(error)
  }
}

function find(name: string): Entry {
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (entry !== undefined) return entry
  throw new UsageError(describeUnknown('command', name, Object.keys(COMMANDS)))
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
    error instanceof BackendError ||
    error instanceof FileError ||
    // The system's own errors: a file that may not be read.
    (error instanceof Error && 'errno' in error)
  ) {
    process.stderr.write(`flannelctl: ${error.message}\n`)
    return EXIT.failure
  }
  throw error
}

function helpText(): string {
  return `flannelctl COMMAND [flags] [arguments]

Looks at this host's part in the overlay network, and at the network in etcd.

${commandList()}
flannelctl COMMAND --help tells more. etcd and the daemon are found by flanneld's
flags, by FLANNELD_* variables, and by those that this host's unit gives the daemon
(${SETTINGS_FILES.join(', ')}).

Exit codes: ${EXIT.ok} fine, ${EXIT.failure} failed, ${EXIT.usage} wrong usage, ${EXIT.trouble} answered, and the answer is trouble.
`
}
