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
const BOOLEANS: Readonly<Record<string, boolean>> = Object.fromEntries([
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
 * word as a boolean's value. Throws UsageError for a flag that is not in the table.
 */
export function normalizeArguments(
  args: readonly string[],
  table: Readonly<Record<string, Flag>>,
): string[] {
  const normalized: string[] = []
  for (let index = 0; index < args.length; index++) {
    const word = args[index] ?? ''
    const match = /^--?([a-zA-Z][^=]*)(=.*)?$/s.exec(word)
    if (match === null) {
      throw new UsageError(`unexpected argument ${JSON.stringify(word)}`)
    }
    const [, name = '', assigned] = match
    const flag = table[name]
    if (flag === undefined)
      throw new UsageError(describeUnknown(name, Object.keys(table)))
    if (assigned !== undefined) {
      normalized.push(`--${name}${assigned}`)
    } else if (flag.type === 'boolean') {
      normalized.push(`--${name}=true`)
    } else {
      const value = args[++index]
      if (value === undefined) throw new UsageError(`flag --${name} needs a value`)
      normalized.push(`--${name}=${value}`)
    }
  }
  return normalized
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
    const fromEnvironment = environment[variable]
    const words = toWords(given[name])
    if (words.length > 0) return [name, convert(flag, words, `--${name}`)]
    if (fromEnvironment !== undefined && fromEnvironment !== '') {
      return [name, convert(flag, [fromEnvironment], variable as Origin)]
    }
    return [
      name,
      convert(flag, flag.type === 'strings' ? [] : [flag.default], `--${name}`),
    ]
  })
  return Object.fromEntries(entries) as Flags<Table>
}

function toWords(value: unknown): string[] {
  if (value === undefined) return []
  return (Array.isArray(value) ? value : [value]).map(String)
}

function convert(flag: Flag, words: readonly string[], origin: Origin): unknown {
  // A flag that is given twice counts once, with its last value.
  const last = words.at(-1) ?? ''
  if (flag.refused !== undefined && last !== flag.default) {
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
    const value = BOOLEANS[last]
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

export function describeUnknown(name: string, known: readonly string[]): string {
  const near = known
    .map(candidate => ({ candidate, distance: editDistance(name, candidate) }))
    .sort((a, b) => a.distance - b.distance)[0]
  const hint =
    near !== undefined && near.distance <= Math.max(2, name.length / 3)
      ? `; did you mean --${near.candidate}?`
      : '; --help lists all flags'
  return `unknown flag --${name}${hint}`
}

/** Levenshtein's distance: how many letters must change. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
