import { z } from 'zod'
import { CommandError, NotThereError, run } from './run.js'

/** nftables, through nft(8): operators can read and replay every line. */

const TIMEOUT_MS = 15_000

/** A table: its family and its name. */
export interface NftTable {
  readonly family: 'inet' | 'ip' | 'ip6'
  readonly name: string
}

/** Runs lines of nft(8) as one transaction: all of them, or none. */
export async function runNft(lines: readonly string[]): Promise<void> {
  if (lines.length === 0) return
  await nft(['-f', '-'], `${lines.join('\n')}\n`)
}

/**
 * A table as nft(8) prints it, without counts; undefined when there is none.
 *
 * @param isTerse leaves out what is in its sets.
 */
export async function listTable(
  { family, name }: NftTable,
  isTerse = false,
): Promise<string | undefined> {
  const flags = isTerse ? ['--stateless', '--terse'] : ['--stateless']
  return await ofTable(() => nft([...flags, 'list', 'table', family, name]))
}

const countersSchema = z.object({
  nftables: z.array(
    z.object({
      counter: z
        .object({ name: z.string(), packets: z.number(), bytes: z.number() })
        .optional(),
    }),
  ),
})

export interface Counter {
  readonly packets: number
  readonly bytes: number
}

/** The named counters of a table; none when there is no such table. */
export async function listCounters(
  table: NftTable,
): Promise<ReadonlyMap<string, Counter>> {
  const { family, name } = table
  const text = await ofTable(() => nft(['-j', 'list', 'counters', 'table', family, name]))
  if (text === undefined) return new Map()
  const { nftables } = parseJson(text, countersSchema)
  return new Map(
    nftables.flatMap(({ counter }) => {
      if (counter === undefined) return []
      const { name: key, packets, bytes } = counter
      return [[key, { packets, bytes }] as const]
    }),
  )
}

const setSchema = z.object({
  nftables: z.array(
    z.object({ set: z.object({ elem: z.array(z.unknown()).default([]) }).optional() }),
  ),
})

/** What is in a set, as nft(8) writes it in JSON; none when there is no such set. */
export async function listSet(
  { family, name }: NftTable,
  set: string,
): Promise<unknown[]> {
  const text = await ofTable(() => nft(['-j', 'list', 'set', family, name, set]))
  if (text === undefined) return []
  return parseJson(text, setSchema).nftables.flatMap(({ set }) => set?.elem ?? [])
}

/** The tables of this network namespace. */
export async function listTables(): Promise<NftTable[]> {
  const text = await nft(['list', 'tables'])
  return Array.from(text.matchAll(/^table (inet|ip6|ip) (\S+)$/gm), match => ({
    family: match[1] as NftTable['family'],
    name: match[2] ?? '',
  }))
}

/** Lines that take a table away, whether it is there or not. */
export function linesToRemove({ family, name }: NftTable): string[] {
  return [`table ${family} ${name} {}`, `delete table ${family} ${name}`]
}

async function nft(args: readonly string[], input = ''): Promise<string> {
  try {
    return await run('nft', args, { input, timeoutMs: TIMEOUT_MS })
  } catch (error) {
    if (error instanceof CommandError && error.code === 'ENOENT')
      throw new NotThereError('nft', error, 'nftables')
    throw error
  }
}

async function ofTable(list: () => Promise<string>): Promise<string | undefined> {
  try {
    return await list()
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file'))
      return undefined
    throw error
  }
}

function parseJson<Schema extends z.ZodType>(
  text: string,
  schema: Schema,
): z.output<Schema> {
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    const why = cause instanceof z.ZodError ? z.prettifyError(cause) : String(cause)
    throw new SyntaxError(`cannot read what nft(8) printed: ${why}`, { cause })
  }
}
