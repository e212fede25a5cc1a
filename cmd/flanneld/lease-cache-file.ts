import { rm } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import {
  type LeaseCache,
  type Moment,
  formatLeaseCache,
  parseLeaseCache,
} from '../../lib/subnet/lease-cache.js'
import { readFileIfAny, writeFileAtomic } from './files.js'

/** It names every host of the network. */
const MODE = 0o600

/** Changes that follow each other closely are written once. */
const GATHER_MS = 5000

/** While nothing changes, the times in it are brought up to date this often. */
const REFRESH_MS = 60_000

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

  async read(): Promise<LeaseCache | undefined> {
    try {
      const text = await readFileIfAny(this.#path)
      return text === undefined ? undefined : parseLeaseCache(text, await this.#present())
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
  async run(describe: () => LeaseCache, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#write(describe())
      await this.#clock.sleep(GATHER_MS, signal)
      const wait = AbortSignal.any([signal, this.#wake.signal])
      await this.#clock.sleep(REFRESH_MS, wait)
      this.#wake = new AbortController()
    }
    await this.#write(describe())
  }

  async remove(): Promise<void> {
    await rm(this.#path, { force: true }).catch((error: unknown) => {
      this.#log.warn(
        { reason: (error as Error).message },
        'cannot remove the lease cache',
      )
    })
  }

  async #write(cache: LeaseCache): Promise<void> {
    try {
      const text = formatLeaseCache(cache, await this.#present())
      await writeFileAtomic(this.#path, text, MODE)
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

  async #present(): Promise<Moment> {
    const boot = (await readFileIfAny('/proc/sys/kernel/random/boot_id')) ?? ''
    return { boot: boot.trim(), now: this.#clock.now(), date: this.#clock.date() }
  }
}
