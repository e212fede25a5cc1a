import type { Logger } from 'pino'
import type { HeldLease } from '../../lib/subnet/acquire-lease.js'
import type { Clock } from '../../lib/subnet/clock.js'
import {
  type LeaseCache,
  formatLeaseCache,
  parseLeaseCache,
} from '../../lib/subnet/lease-cache.js'
import type { Entry } from '../../lib/subnet/registry.js'
import { readFileIfAny, writeFileAtomic } from './files.js'

/** It names every host of the network. */
const MODE = 0o600

/** Changes that follow each other closely are written once. */
const GATHER_MS = 5000

/** While nothing changes, the times in it are brought up to date this often. */
const REFRESH_MS = 60_000

/** A cache whose times are those of our clock. */
export interface ReadCache {
  readonly config: string
  readonly held: HeldLease
  readonly permitUntil: number
  readonly holder: string
  readonly records: readonly Entry[]
}

/** The lease cache on disk. Losing it costs nothing while etcd answers, so its troubles are only told. */
export class LeaseCacheFile {
  readonly #path: string
  readonly #clock: Clock
  readonly #log: Logger
  #wake = new AbortController()
  #isFailing = false

  constructor(path: string, clock: Clock, log: Logger) {
    this.#path = path
    this.#clock = clock
    this.#log = log
  }

  async read(): Promise<ReadCache | undefined> {
    try {
      const text = await readFileIfAny(this.#path)
      if (text === undefined) return undefined
      const { held, provenAt, permitUntil, ...rest } = parseLeaseCache(text)
      return {
        ...rest,
        held: { ...held, provenAt: this.#toClock(provenAt) },
        permitUntil: this.#toClock(permitUntil),
      }
    } catch (error) {
      this.#log.warn(
        { path: this.#path, reason: (error as Error).message },
        'the lease cache cannot be read; going on without it',
      )
      return undefined
    }
  }

  /** Something changed: write soon. */
  touch(): void {
    this.#wake.abort()
  }

  /** Writes what `describe` says, after changes and now and then, until `signal` aborts. */
  async run(describe: () => ReadCache, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#write(describe())
      await this.#clock.sleep(GATHER_MS, signal)
      const wait = AbortSignal.any([signal, this.#wake.signal])
      await this.#clock.sleep(REFRESH_MS, wait)
      this.#wake = new AbortController()
    }
    await this.#write(describe())
  }

  async #write({ held, permitUntil, ...rest }: ReadCache): Promise<void> {
    const { provenAt, ...lease } = held
    const cache: LeaseCache = {
      ...rest,
      held: lease,
      provenAt: this.#toDate(provenAt),
      permitUntil: this.#toDate(permitUntil),
    }
    try {
      await writeFileAtomic(this.#path, formatLeaseCache(cache), MODE)
      this.#isFailing = false
    } catch (error) {
      if (!this.#isFailing)
        this.#log.warn(
          { path: this.#path, reason: (error as Error).message },
          'the lease cache cannot be written; without it a restart waits for etcd',
        )
      this.#isFailing = true
    }
  }

  /** The clock of a later boot starts from another zero; time of day does not. */
  #toClock(date: Date): number {
    return date.getTime() - this.#clock.date().getTime() + this.#clock.now()
  }

  #toDate(time: number): Date {
    return new Date(this.#clock.date().getTime() + time - this.#clock.now())
  }
}
