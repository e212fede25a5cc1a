import yargs from 'yargs'
import { type Flag, environmentName } from './flag-table.js'
import { type Flags, normalizeArguments, resolveFlags } from './parse-flags.js'

export type FlagTable = Readonly<Record<string, Flag>>

/** What a command line says: flags with their values, and the words that belong to none. */
export interface CommandLine<Table extends FlagTable> {
  readonly flags: Flags<Table>
  readonly words: readonly string[]
}

/** Reads flags and words, in any order; what follows `--` is words. Throws UsageError. */
export function readCommandLine<Table extends FlagTable>(
  table: Table,
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
): CommandLine<Table> {
  const { flags, words } = normalizeArguments(args, table)
  const given = yargs(flags.map(quoteValue))
    .options(Object.fromEntries(Object.keys(table).map(name => [name, { string: true }])))
    .help(false)
    .version(false)
    .parserConfiguration({ 'camel-case-expansion': false, 'dot-notation': false })
    .parseSync()
  return { flags: resolveFlags(table, given, environment), words }
}

/** yargs takes one pair of quotes off each value: ours, so that the operator's own stay. */
function quoteValue(flag: string): string {
  const [, name = '', value = ''] = /^([^=]*)=(.*)$/s.exec(flag) ?? []
  return `${name}="${value}"`
}

/** The text of `--help`: a usage text, then every flag that is not refused. */
export async function formatHelp(usage: string, table: FlagTable): Promise<string> {
  const shown = Object.entries(table).filter(([, flag]) => flag.refused === undefined)
  const options = shown.map(([name, flag]) => [
    name,
    {
      describe: describeFlag(name, flag),
      type: flag.type === 'boolean' ? ('boolean' as const) : ('string' as const),
      ...(flag.default !== '' && { defaultDescription: flag.default }),
      ...(flag.choices && { choices: flag.choices }),
    },
  ])
  const list = await yargs()
    .options(Object.fromEntries(options))
    .help('help')
    .version(false)
    .wrap(100)
    .getHelp()
  return `${usage}\n\n${list}\n`
}

function describeFlag(name: string, { describe, environment }: Flag): string {
  return environment === false ? describe : `${describe} [${environmentName(name)}]`
}
