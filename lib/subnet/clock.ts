import { setTimeout as delay } from 'node:timers/promises'

/** Time and chance, passed in, so that tests and simulations decide what they are. */
export interface Clock {
  /** Milliseconds of a clock that never jumps and counts suspended time. */
  now(): number
  /** The time of day, which may jump: for people and for files that outlive a boot. */
  date(): Date
  /** Resolves after `ms`, or at once when `signal` aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** A number in [0, 1). */
  random(): number
}

/** @param now CLOCK_BOOTTIME in ms. */
export function systemClock(now: () => number): Clock {
  return {
    now,
    date: () => new Date(),
    random: Math.random,
    sleep: async (ms, signal) => {
      await delay(ms, undefined, { ...(signal && { signal }) }).catch(() => undefined)
    },
  }
}

/** Delays that double from `firstMs` to `lastMs`, each spread over its upper half so that hosts do not march in step. */
export class Backoff {
  readonly #clock: Clock
  readonly #firstMs: number
  readonly #lastMs: number
  #nextMs: number

  constructor(clock: Clock, firstMs: number, lastMs: number) {
    this.#clock = clock
    this.#firstMs = firstMs
    this.#lastMs = lastMs
    this.#nextMs = firstMs
  }

  /** Sleeps for the next delay. */
  async wait(signal?: AbortSignal): Promise<void> {
    const ms = this.#nextMs * (0.5 + this.#clock.random() / 2)
    this.#nextMs = Math.min(this.#lastMs, this.#nextMs * 2)
    await this.#clock.sleep(ms, signal)
  }

  /** The next trouble is a new one. */
  reset(): void {
    this.#nextMs = this.#firstMs
  }
}
