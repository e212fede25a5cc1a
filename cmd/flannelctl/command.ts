import {
  ETCD_FLAGS,
  type Flag,
  PLACE_FLAGS,
  environmentName,
} from '../flanneld/flag-table.js'
import { type FlagTable, formatHelp, readCommandLine } from '../flanneld/command-line.js'
import { type Flags, UsageError } from '../flanneld/parse-flags.js'
import { readUnitSettings } from './unit-settings.js'

export const EXIT = {
  ok: 0,
  /** The command could not do what it was asked. */
  failure: 1,
  usage: 2,
  /** The command did what it was asked, and what it found needs somebody. */
  trouble: 3,
} as const

/** A failure that its message explains to the operator: what, to what, what to do. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure'
}

export interface Command {
  /** Usage, explanation and examples: what `--help` shows above the flags. */
  readonly help: string
  /** Those that it shares with other commands included; none where it reads its own. */
  readonly flags: FlagTable
  /** @returns the exit code. */
  run(args: readonly string[]): Promise<number>
}

/** The flags of every command: how the answer is to look, and where the daemon and etcd are. */
export const COMMON_FLAGS = {
  json: {
    type: 'boolean',
    default: 'false',
    describe: 'print JSON for programs',
    environment: false,
  },
  ...PLACE_FLAGS,
  ...ETCD_FLAGS,
} as const satisfies Record<string, Flag>

/** Makes a command of a table of flags and what to do with their values. */
export function defineCommand<Table extends FlagTable>(command: {
  /** Usage, explanation and examples: what `--help` shows above the flags. */
  readonly help: string
  readonly flags: Table
  run(flags: Flags<Table>, words: readonly string[]): Promise<number>
}): Command {
  const { flags: table } = command
  const help = command.help.trim()
  return {
    help,
    flags: table,
    run: async args => {
      if (args.some(arg => /^--?(h|help)$/.test(arg))) {
        process.stdout.write(await formatHelp(help, table))
        return EXIT.ok
      }
      const settings = await readUnitSettings(isEtcdGiven(args))
      const environment = { ...settings, ...process.env }
      const { flags, words } = readCommandLine(table, args, environment)
      return await command.run(flags, words)
    },
  }
}

/** Another etcd than the unit's, perhaps: its certificates and password are none of that one's business. */
function isEtcdGiven(args: readonly string[]): boolean {
  return (
    process.env[environmentName('etcd-endpoints')] !== undefined ||
    args.some(arg => /^--?etcd-endpoints(=|$)/.test(arg))
  )
}

/** For commands that take no arguments. Throws UsageError. */
export function refuseWords(command: string, [word]: readonly string[]): void {
  if (word !== undefined)
    throw new UsageError(`${command} takes no argument such as ${JSON.stringify(word)}`)
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
}
