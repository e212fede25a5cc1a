import { setImmediate as endOfThisTurn } from 'node:timers/promises'
import { SubnetError, isSubnetError } from './errors.js'
import type { Entry, Snapshot } from './registry.js'

/** So many entries are asked for at first: some 10 KB, which a slow link and a busy etcd send in time. */
const FIRST_PAGE = 50

/** More of them would be too long an answer where records are long. */
const LARGEST_PAGE = 16_000

/** With less in it a page takes a busy etcd no less time. */
const SMALLEST_PAGE = 25

/** An answer that comes sooner has room for much more, or some; one that comes later had too much. */
const QUICK_MS = 250
const SOON_MS = 1000
const SLOW_MS = 2000

/** How often a page is asked for, each time with less in it, until it comes in time. */
const PAGE_ATTEMPTS = 2

/** How often a list begins anew, because its revision is not to be had any more. */
const LIST_ATTEMPTS = 3

/** Which part of a prefix to read. */
export interface PageRequest<Cursor> {
  /** Where to begin; undefined for the first page. */
  readonly cursor: Cursor | undefined
  readonly limit: number
  /** As of which revision; undefined for the newest. */
  readonly revision: bigint | undefined
}

export interface Page<Cursor> extends Snapshot {
  /** Where the next page begins; undefined when this is the last. */
  readonly next: Cursor | undefined
}

/**
 * Lists a prefix as of one revision in several answers, so that none of them is
 * too long for the time that an answer has. When thousands of hosts start at once
 * each gets its share of etcd's link; a list in one answer would come too late for
 * all of them, and be asked for again. Pages grow while they come soon.
 */
export class PagedList<Cursor> {
  readonly #readPage: (request: PageRequest<Cursor>) => Promise<Page<Cursor>>
  readonly #now: () => number
  readonly #endOfTurn: () => Promise<void>
  /** Where the next list begins: smaller when pages came late. */
  #first = FIRST_PAGE
  /** What is asked for at the end of this turn. */
  #asked: Promise<Snapshot> | undefined

  /**
   * @param readPage rejects with ERR_REVISION_COMPACTED or ERR_REVISION_REGRESSED when the
   *   revision is not to be had.
   * @param now milliseconds of a clock that never jumps.
   * @param endOfTurn resolves when all have asked that ask now.
   */
  constructor(
    readPage: (request: PageRequest<Cursor>) => Promise<Page<Cursor>>,
    now: () => number,
    endOfTurn: () => Promise<void> = endOfThisTurn,
  ) {
    this.#readPage = readPage
    this.#now = now
    this.#endOfTurn = endOfTurn
  }

  /**
   * Throws what `readPage` throws. Those who ask in one turn of the event loop get one answer,
   * which is asked for after them, so that it has what each of them knows of.
   */
  async read(): Promise<Snapshot> {
    this.#asked ??= this.#readAtTheEndOfTheTurn()
    return await this.#asked
  }

  async #readAtTheEndOfTheTurn(): Promise<Snapshot> {
    await this.#endOfTurn()
    this.#asked = undefined
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#readAll()
      } catch (error) {
        // etcd was compacted to a later revision, or restored to an earlier one, in between.
        const isGone =
          isSubnetError(error, 'ERR_REVISION_COMPACTED') ||
          isSubnetError(error, 'ERR_REVISION_REGRESSED')
        if (!isGone) throw error
        if (attempt === LIST_ATTEMPTS)
          throw new SubnetError(
            'ERR_REGISTRY_UNAVAILABLE',
            `etcd forgets a revision before all of it is listed: ${error.message}`,
            { cause: error },
          )
      }
    }
  }

  async #readAll(): Promise<Snapshot> {
    const entries: Entry[] = []
    let limit = this.#first
    let cursor: Cursor | undefined
    let revision: bigint | undefined
    let failures = 0
    for (;;) {
      const begin = this.#now()
      try {
        const page = await this.#readPage({ cursor, limit, revision })
        failures = 0
        for (const entry of page.entries) entries.push(entry)
        revision ??= page.revision
        cursor = page.next
        if (cursor === undefined) {
          this.#first = Math.min(FIRST_PAGE, limit)
          return { revision, entries }
        }
        const ms = this.#now() - begin
        if (ms < QUICK_MS) limit = Math.min(LARGEST_PAGE, limit * 2)
        else if (ms < SOON_MS) limit = Math.min(LARGEST_PAGE, Math.ceil(limit * 1.5))
        else if (ms > SLOW_MS) limit = half(limit)
      } catch (error) {
        const isLate =
          isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE') &&
          this.#now() - begin > SLOW_MS
        if (!isLate) throw error
        limit = half(limit)
        this.#first = Math.min(this.#first, limit)
        failures += 1
        // What has come is good; but that etcd is away must be known soon.
        if (revision === undefined || failures === PAGE_ATTEMPTS) throw error
      }
    }
  }
}

function half(limit: number): number {
  return Math.max(SMALLEST_PAGE, limit >> 1)
}
