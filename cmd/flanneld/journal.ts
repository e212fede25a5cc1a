import { appendFile, stat } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import { isJsonObject } from '../../lib/subnet/go-json.js'
import { parseSubnet } from '../../lib/subnet/orders.js'
import type { Subnet } from '../../lib/subnet/subnet-key.js'
import { readFileIfAny, writeFileAtomic } from './files.js'

/** Some two thousand events: years of an ordinary host. */
const MAX_BYTES = 256 << 10
const MODE = 0o600

export interface JournalEvent {
  /** ISO 8601. */
  readonly at: string
  readonly event: string
  readonly [field: string]: unknown
}

/**
 * What happened to this host's lease, a line of JSON each, for the day when
 * somebody asks why. Bounded; what cannot be written is told once and lost.
 */
export class Journal {
  readonly #path: string
  readonly #clock: Clock
  readonly #log: Logger
  #queue = Promise.resolve()
  #isFailing = false

  constructor(path: string, clock: Clock, log: Logger) {
    this.#path = path
    this.#clock = clock
    this.#log = log
  }

  write(event: string, fields: Readonly<Record<string, string>> = {}): void {
    const at = this.#clock.date().toISOString()
    const line = `${JSON.stringify({ at, event, ...fields })}\n`
    this.#queue = this.#queue.then(() => this.#append(line))
  }

  /** Resolves when everything is written. */
  async close(): Promise<void> {
    await this.#queue
  }

  async #append(line: string): Promise<void> {
    try {
      await this.#trim()
      await appendFile(this.#path, line, { mode: MODE })
    } catch (error) {
      if (!this.#isFailing)
        this.#log.warn(
          { path: this.#path, reason: (error as Error).message },
          'the journal cannot be written',
        )
      this.#isFailing = true
    }
  }

  /** Gives up the older half when the file is full. */
  async #trim(): Promise<void> {
    const size = (await stat(this.#path).catch(() => undefined))?.size ?? 0
    if (size < MAX_BYTES) return
    const lines = ((await readFileIfAny(this.#path)) ?? '').trimEnd().split('\n')
    const younger = lines.slice(Math.ceil(lines.length / 2))
    await writeFileAtomic(this.#path, `${younger.join('\n')}\n`, MODE)
  }
}

/** The events, oldest first. Lines that cannot be read are left out. */
export async function readJournal(path: string): Promise<JournalEvent[]> {
  const text = (await readFileIfAny(path)) ?? ''
  return text.split('\n').flatMap(line => parseEvent(line) ?? [])
}

/**
 * Every subnet that the host has held: the last, as other files have it, and those of the
 * journal, as far as it goes back; that alone for who may not read it.
 */
export async function readHeldSubnets(
  path: string,
  last: Subnet | undefined,
): Promise<Subnet[]> {
  const events = await readJournal(path).catch(() => [])
  const texts = events.flatMap(({ event, subnet }) =>
    event === 'holding' && typeof subnet === 'string' ? [subnet] : [],
  )
  const earlier = [...new Set(texts)].flatMap(text => {
    try {
      return parseSubnet(text)
    } catch {
      return []
    }
  })
  return last === undefined ? earlier : [last, ...earlier]
}

/** One line for people. */
export function formatEvent({ at, event, ...fields }: JournalEvent): string {
  const rest = Object.entries(fields).map(([name, value]) => `${name}=${String(value)}`)
  return [at, event, ...rest].join('  ')
}

function parseEvent(line: string): JournalEvent | undefined {
  try {
    const value: unknown = JSON.parse(line)
    if (!isJsonObject(value)) return undefined
    const { at, event } = value
    return typeof at === 'string' && typeof event === 'string'
      ? { ...value, at, event }
      : undefined
  } catch {
    return undefined
  }
}
