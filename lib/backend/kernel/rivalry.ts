import type { Clock } from '../../subnet/clock.js'
import type { Changes, KernelObject } from './objects.js'

/** Repairs of one object in a minute, after which it is left alone for one. */
const MOST_REPAIRS = 5
const MINUTE_MS = 60_000

/** Objects that somebody else changes as often as we put them right. */
export class Rivalry {
  readonly #clock: Clock
  readonly #repairs = new Map<string, number[]>()
  readonly #sparedUntil = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** An object is to be put right again. Returns true when that is once too often. */
  note(key: string): boolean {
    const now = this.#clock.now()
    if (this.isSpared(key)) return false
    const times = (this.#repairs.get(key) ?? []).filter(at => now - at < MINUTE_MS)
    this.#repairs.set(key, [...times, now])
    if (times.length < MOST_REPAIRS) return false
    this.#sparedUntil.set(key, now + MINUTE_MS)
    this.#repairs.delete(key)
    return true
  }

  /** Whether it is left alone now. */
  isSpared(key: string): boolean {
    const until = this.#sparedUntil.get(key)
    if (until === undefined) return false
    if (this.#clock.now() < until) return true
    this.#sparedUntil.delete(key)
    return false
  }

  /** Keys of what is left alone now. */
  get objects(): string[] {
    return [...this.#sparedUntil.keys()].filter(key => this.isSpared(key))
  }

  /** The changes without those of objects that are left alone. */
  spare({ removed, put }: Changes): Changes {
    const isOurs = ({ key }: KernelObject): boolean => !this.isSpared(key)
    return { removed: removed.filter(isOurs), put: put.filter(isOurs) }
  }
}
