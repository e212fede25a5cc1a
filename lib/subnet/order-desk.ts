import type { Logger } from 'pino'
import { Backoff, type Clock } from './clock.js'
import { SubnetError } from './errors.js'
import { followPrefix } from './follow-prefix.js'
import {
  type Order,
  type StandingOrder,
  formatOrder,
  orderKey,
  readOrder,
} from './orders.js'
import type { Registry } from './registry.js'

/** Between the attempts to write an answer, in ms. */
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 2000

/** Not many: containers wait for the subnet, the operator only for a word. */
const ATTEMPTS = 2

export interface OrderDeskOptions {
  readonly registry: Registry
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly hostId: string
  readonly clock: Clock
  readonly log: Logger
}

/** Where an operator's order to this host lies, and this host's answer. */
export class OrderDesk {
  readonly #options: OrderDeskOptions
  readonly #key: string
  #order: StandingOrder | undefined
  #news = new AbortController()

  constructor(options: OrderDeskOptions) {
    this.#options = options
    this.#key = orderKey(options.prefix, options.hostId)
  }

  /** The order as the registry has it; undefined while there is none. */
  get order(): StandingOrder | undefined {
    return this.#order
  }

  /** Aborts when there is another order. To miss none, take it before you look at `order`. */
  get news(): AbortSignal {
    return this.#news.signal
  }

  /** Keeps the order up to date until `signal` aborts. */
  async follow(signal: AbortSignal): Promise<void> {
    const { registry, clock, log } = this.#options
    const key = this.#key
    await followPrefix(
      {
        registry,
        prefix: key,
        clock,
        log,
        onSnapshot: ({ entries }) => {
          const entry = entries.find(candidate => candidate.key === key)
          this.#take(entry && readOrder(entry))
        },
        onChanges: changes => {
          for (const change of changes) {
            if (change.kind === 'delete' && change.key === key) this.#take(undefined)
            if (change.kind === 'put' && change.entry.key === key)
              this.#take(readOrder(change.entry))
          }
        },
      },
      signal,
    )
  }

  #take(order: StandingOrder | undefined): void {
    this.#order = order
    this.#news.abort()
    this.#news = new AbortController()
  }

  /**
   * Writes what comes of the order that is there. Returns whether it stands: not
   * when the registry refuses or is away, nor when the order has been replaced.
   */
  async answer(answer: Pick<Order, 'state' | 'answer' | 'from'>): Promise<boolean> {
    const { registry, log } = this.#options
    const order = this.#order
    if (order === undefined) return false
    const answered = { ...order, ...answer }
    const write = { kind: 'put', key: this.#key, value: formatOrder(answered) } as const
    const guard = { key: this.#key, modRevision: order.modRevision }
    const fields = { order: order.kind, answer: answer.answer }
    try {
      const { succeeded, revision } = await this.#retry(() =>
        registry.commit([guard], [write]),
      )
      if (!succeeded) return false
      // The watch may have brought another one already.
      if (this.#order === order) this.#order = { ...answered, modRevision: revision }
      log.info(fields, 'order answered')
      return true
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      log.error({ ...fields, reason: error.message }, 'an order cannot be answered')
      return false
    }
  }

  async #retry<T>(attempt: () => Promise<T>): Promise<T> {
    const backoff = new Backoff(this.#options.clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    for (let round = 1; ; round++) {
      try {
        return await attempt()
      } catch (error) {
        if (!(error instanceof SubnetError) || round === ATTEMPTS) throw error
        await backoff.wait()
      }
    }
  }
}
