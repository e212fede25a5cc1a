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

/** The lease cache on disk. Losing it costs nothing while etcd answers, so its troubles are only told. */
export class LeaseCacheFile {
  readonly #path: string
  readonly #clock: Clock
  readonly #log: Logger
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

  async write(cache: LeaseCache): Promise<void> {
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

  async remove(): Promise<void> {
    await rm(this.#path, { force: true }).catch((error: unknown) => {
      this.#log.warn(
        { reason: (error as Error).message },
        'cannot remove the lease cache',
      )
    })
  }

  async #present(): Promise<Moment> {
    const boot = (await readFileIfAny('/proc/sys/kernel/random/boot_id')) ?? ''
    return { boot: boot.trim(), now: this.#clock.now(), date: this.#clock.date() }
  }
}
