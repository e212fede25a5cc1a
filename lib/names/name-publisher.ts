import type { Logger } from 'pino'
import { Backoff, type Clock } from '../subnet/clock.js'
import { SubnetError } from '../subnet/errors.js'
import type { Registry, Write } from '../subnet/registry.js'
import { TTL_SECONDS } from './skydns.js'

/** Three keep-alives may be lost before the names go. */
const RENEW_MS = (TTL_SECONDS * 1000) / 4

/** Writes of one commit: etcd takes 128. */
const AT_ONCE = 100

/** No value that anybody wants. */
const UNSURE = ''

export interface NamePublisherOptions {
  readonly registry: Registry
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Keeps a set of records in etcd as it is wanted, under a lease of their own, so that
 * they are gone a minute after the host is. Nothing that matters waits for it.
 */
export class NamePublisher {
  readonly #options: NamePublisherOptions
  #wanted: ReadonlyMap<string, string> = new Map()
  /** What is in etcd under the lease, or may be. */
  readonly #published = new Map<string, string>()
  #lease: string | undefined
  /** Something else is wanted than was written last. */
  #isStale = false
  #wake: () => void = () => undefined
  #trouble: string | undefined

  constructor(options: NamePublisherOptions) {
    this.#options = options
  }

  /** Why the names are not what they should be; undefined when they are. */
  get trouble(): string | undefined {
    return this.#trouble
  }

  /** @param records every key with its value; what is not among them goes. */
  want(records: ReadonlyMap<string, string>): void {
    this.#wanted = records
    this.#isStale = true
    this.#wake()
  }

  /**
   * Publishes until `signal` aborts. The records then stay for their time, for who
   * comes next, unless `isOver` says that nobody does.
   */
  async run(signal: AbortSignal, isOver: () => boolean): Promise<void> {
    const { clock, log } = this.#options
    const backoff = new Backoff(clock, 500, 10_000)
    let renewAt = 0
    while (!signal.aborted) {
      try {
        if (clock.now() >= renewAt) {
          await this.#renew()
          renewAt = clock.now() + RENEW_MS
        }
        await this.#write()
        if (this.#trouble !== undefined) log.info('names are published again')
        this.#trouble = undefined
        backoff.reset()
        await this.#sleep(renewAt - clock.now(), signal)
      } catch (error) {
        if (!(error instanceof SubnetError)) throw error
        if (this.#trouble === undefined)
          log.warn({ reason: error.message }, 'names cannot be published')
        this.#trouble = error.message
        // The lease may be gone: ask before the next write.
        renewAt = 0
        await backoff.wait(signal)
      }
    }
    if (isOver() && this.#lease !== undefined)
      await this.#options.registry.revokeLease(this.#lease).catch(() => undefined)
  }

  /** Keeps the lease, or takes one. */
  async #renew(): Promise<void> {
    const { registry } = this.#options
    if (this.#lease !== undefined && (await registry.keepLeaseAlive(this.#lease)) > 0)
      return
    this.#lease = undefined
    this.#lease = await registry.grantLease(TTL_SECONDS)
    // What was there went with the former lease, or goes.
    for (const key of this.#published.keys()) this.#published.set(key, UNSURE)
  }

  async #write(): Promise<void> {
    const leaseId = this.#lease
    if (leaseId === undefined) return
    this.#isStale = false
    const writes: Write[] = []
    for (const [key, value] of this.#wanted)
      if (this.#published.get(key) !== value)
        writes.push({ kind: 'put', key, value, leaseId })
    for (const key of this.#published.keys())
      if (!this.#wanted.has(key)) writes.push({ kind: 'delete', key })
    for (let at = 0; at < writes.length; at += AT_ONCE) {
      const some = writes.slice(at, at + AT_ONCE)
      // Until it is known to be there it may be, and is not what is wanted.
      for (const { kind, key } of some)
        if (kind === 'put') this.#published.set(key, UNSURE)
      await this.#options.registry.commit([], some)
      for (const write of some)
        if (write.kind === 'put') this.#published.set(write.key, write.value)
        else this.#published.delete(write.key)
    }
  }

  /** Until something else is wanted, or the lease is to be renewed. */
  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#isStale) return
    const woken = new AbortController()
    this.#wake = () => {
      woken.abort()
    }
    await this.#options.clock.sleep(ms, AbortSignal.any([signal, woken.signal]))
    this.#wake = () => undefined
  }
}
