import { describeUnknown } from './edit-distance.js'
import { type Flag, type FlagType, environmentName } from './flag-table.js'

type Value<F extends Flag> = F['type'] extends 'boolean'
  ? boolean
  : F['type'] extends 'integer'
    ? number
    : F['type'] extends 'strings'
      ? readonly string[]
      : F['choices'] extends readonly (infer Choice)[]
        ? Choice
        : string

/** What a table of flags gives: a value of its type for each. */
export type Flags<Table extends Readonly<Record<string, Flag>>> = {
  readonly [Name in keyof Table]: Value<Table[Name]>
}

/** A mistake on the command line or in the environment: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Go's words for booleans (strconv.ParseBool). */
const BOOLEANS: ReadonlyMap<string, boolean> = new Map([
  ...['1', 't', 'T', 'true', 'TRUE', 'True'].map(word => [word, true] as const),
  ...['0', 'f', 'F', 'false', 'FALSE', 'False'].map(word => [word, false] as const),
])

/** Go's integers (strconv.ParseInt with base 0), as far as they are decimal, hexadecimal, octal or binary. */
const INTEGER = /^[+-]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]*|[1-9][0-9]*)$/

/** How a given value is named in an error. */
type Origin = `--${string}` | `FLANNELD_${string}`

/**
 * Rewrites Go's way of writing flags to what yargs reads: `-name` to `--name`,
 * and a boolean without a value to `--name=true`, since Go never takes the next
 * word as a boolean's value. Words that belong to no flag come apart from them,
 * and so does all that follows `--`. Throws UsageError for a flag that is not
 * in the table.
 */
export function normalizeArguments(
  args: readonly string[],
  table: Readonly<Record<string, Flag>>,
): { flags: string[]; words: string[] } {
  const flags: string[] = []
  const words: string[] = []
  for (let index = 0; index < args.length; index++) {
    const word = args[index] ?? ''
    if (word === '--') {
      words.push(...args.slice(index + 1))
      break
    }
    const match = /^--?([a-zA-Z][^=]*)(=.*)?$/s.exec(word)
    if (match === null) {
      words.push(word)
      continue
    }
    const [, name = '', assigned] = match
    const flag = Object.hasOwn(table, name) ? table[name] : undefined
    if (flag === undefined)
      throw new UsageError(
        describeUnknown(
          'flag',
          `--${name}`,
          Object.keys(table).map(known => `--${known}`),
        ),
      )
    if (assigned !== undefined) {
      flags.push(`--${name}${assigned}`)
    } else if (flag.type === 'boolean') {
      flags.push(`--${name}=true`)
    } else {
      const value = args[++index]
      if (value === undefined) throw new UsageError(`flag --${name} needs a value`)
      flags.push(`--${name}=${value}`)
    }
  }
  return { flags, words }
}

/**
 * Works out each flag's value: the command line beats the environment, the
 * environment beats the default. An empty variable counts as not set, and a
 * repeatable flag takes one value from it, as flannel does.
 *
 * @param given values by flag, as yargs collected them.
 */
export function resolveFlags<Table extends Readonly<Record<string, Flag>>>(
  table: Table,
  given: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
): Flags<Table> {
  const entries = Object.entries(table).map(([name, flag]): [string, unknown] => {
    const variable = environmentName(name)
    const fromEnvironment = flag.environment === false ? undefined : environment[variable]
    const words = toWords(given[name])
    if (words.length > 0) return [name, convert(flag, words, `--${name}`)]
    if (fromEnvironment !== undefined && fromEnvironment !== '') {
      return [name, convert(flag, [fromEnvironment], variable as Origin)]
    }
    return [
      name,
      convert(flag, flag.type === 'strings' ? [] : [flag.default], `--${name}`, false),
    ]
  })
  return Object.fromEntries(entries) as Flags<Table>
}

function toWords(value: unknown): string[] {
  if (value === undefined) return []
  return (Array.isArray(value) ? value : [value]).map(String)
}

function convert(
  flag: Flag,
  words: readonly string[],
  origin: Origin,
  isGiven = true,
): unknown {
  // A flag that is given twice counts once, with its last value.
  const last = words.at(-1) ?? ''
  const isOff = flag.type === 'boolean' && BOOLEANS.get(last) === false
  if (flag.refused !== undefined && isGiven && !isOff) {
    throw new UsageError(`${origin}: ${flag.refused}`)
  }
  if (flag.choices !== undefined && !flag.choices.includes(last)) {
    throw new UsageError(
      `${origin} is ${JSON.stringify(last)}; it takes ${flag.choices.join(', ')}`,
    )
  }
  return CONVERTERS[flag.type](words, last, origin)
}

const CONVERTERS: Readonly<
  Record<FlagType, (words: readonly string[], last: string, origin: Origin) => unknown>
> = {
  string: (_, last) => last,
  strings: words => words,
  boolean: (_, last, origin) => {
    const value = BOOLEANS.get(last)
    if (value === undefined) {
      throw new UsageError(`${origin} is ${JSON.stringify(last)}; it takes true or false`)
    }
    return value
  },
  integer: (_, last, origin) => {
    if (!INTEGER.test(last)) {
      throw new UsageError(
        `${origin} is ${JSON.stringify(last)}; it takes a whole number`,
      )
    }
    const octal = /^([+-]?)0([0-7]+)$/.exec(last)
    const digits = octal ? `0o${octal[2] ?? ''}` : last.replace(/^[+-]/, '')
    return last.startsWith('-') ? -Number(digits) : Number(digits)
  },
}
