import type { Clock } from '../../lib/subnet/clock.js'
import { insertDescending } from '../helpers/insert-descending.js'

interface Sleeper {
  readonly due: number
  readonly wake: () => void
  isAwake: boolean
}

/**
 * A clock that stands still until the test moves it. Sleepers wake one by one,
 * in the order of their time and then of their coming, and everything that one
 * of them sets off has come to rest before the next one wakes: a run is the same
 * every time.
 */
export class ManualClock implements Clock {
  #now: number
  /** Who is due first is last; of those that are due together, who came first. Some were woken before their time. */
  readonly #sleepers: Sleeper[] = []
  #sleeping = 0
  #driven = false
  readonly #random: () => number

  constructor({ now = 1_000_000, seed = 1 } = {}) {
    this.#now = now
    this.#random = mulberry32(seed)
  }

  now(): number {
    return this.#now
  }

  date(): Date {
    return new Date(this.#now)
  }

  random(): number {
    return this.#random()
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (ms <= 0 || signal?.aborted === true) return
    await new Promise<void>(resolve => {
      const wake = (): void => {
        signal?.removeEventListener('abort', wake)
        sleeper.isAwake = true
        this.#sleeping -= 1
        resolve()
      }
      const sleeper: Sleeper = { due: this.#now + ms, wake, isAwake: false }
      insertDescending(this.#sleepers, sleeper, ({ due }) => due)
      this.#sleeping += 1
      signal?.addEventListener('abort', wake)
    })
  }

  /** How many sleep now: 0 when nothing is left open. */
  get sleeping(): number {
    return this.#sleeping
  }

  /** Lets everything run that does not wait for time. */
  async settle(): Promise<void> {
    await new Promise(resolve => setImmediate(resolve))
  }

  /** Lets `ms` pass. One at a time moves the clock. */
  async advance(ms: number): Promise<void> {
    await this.#drive(() => this.#pass(ms))
  }

  /** Time goes by in which nothing runs, as on a machine that is suspended: who was due wakes late. */
  async oversleep(ms: number): Promise<void> {
    this.#now += ms
    await this.advance(0)
  }

  async #drive<T>(act: () => Promise<T>): Promise<T> {
    if (this.#driven) throw new Error('somebody moves the clock already')
    this.#driven = true
    try {
      return await act()
    } finally {
      this.#driven = false
    }
  }

  async #pass(ms: number): Promise<void> {
    const end = this.#now + ms
    await this.settle()
    for (let next = this.#next(); next !== undefined && next.due <= end;) {
      // Who overslept wakes now.
      this.#now = Math.max(this.#now, next.due)
      next.wake()
      await this.settle()
      next = this.#next()
    }
    this.#now = end
  }

  /** Lets time pass until `promise` settles; throws when that takes longer than `limitMs`. */
  async until<T>(promise: Promise<T>, limitMs = 3_600_000): Promise<T> {
    return await this.#drive(() => this.#passUntil(promise, limitMs))
  }

  async #passUntil<T>(promise: Promise<T>, limitMs: number): Promise<T> {
    const end = this.#now + limitMs
    const state = { settled: false }
    const watched = promise.finally(() => {
      state.settled = true
    })
    watched.catch(() => undefined)
    await this.settle()
    while (!state.settled) {
      const next = this.#next()
      if (next === undefined) throw new Error('nobody sleeps, so time changes nothing')
      if (next.due > end) throw new Error(`nothing happened within ${limitMs} ms`)
      await this.#pass(next.due - this.#now)
    }
    return await watched
  }

  #next(): Sleeper | undefined {
    while (this.#sleepers.at(-1)?.isAwake === true) this.#sleepers.pop()
    return this.#sleepers.at(-1)
  }
}

/**
 * One host's view of the common time. A suspended host sees nothing and does
 * nothing: what came due meanwhile happens when it resumes.
 */
export class HostClock implements Clock {
  readonly #clock: Clock
  #awake = Promise.resolve()
  #resume: (() => void) | undefined
  #jumped = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  now(): number {
    return this.#clock.now()
  }

  date(): Date {
    return new Date(this.#clock.date().getTime() + this.#jumped)
  }

  /** Sets the time of day, and it alone, forwards or back. */
  jump(ms: number): void {
    this.#jumped += ms
  }

  random(): number {
    return this.#clock.random()
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    await this.#awake
    await this.#clock.sleep(ms, signal)
    await this.#awake
  }

  suspend(): void {
    if (this.#resume !== undefined) return
    this.#awake = new Promise(resolve => {
      this.#resume = resolve
    })
  }

  resume(): void {
    this.#resume?.()
    this.#resume = undefined
  }
}

/** A small random number generator with a seed (Tommy Ettinger's mulberry32). */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
