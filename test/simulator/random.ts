/** Chance from a seed, for what happens to a simulated network. */
export class Chance {
  readonly #next: () => number

  /** @param next numbers in [0, 1). */
  constructor(next: () => number) {
    this.#next = next
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.#next() * times < 1
  }

  /** A whole number, both ends included. */
  between(least: number, most: number): number {
    return least + Math.floor(this.#next() * (most - least + 1))
  }

  pick<T>(items: readonly T[]): T | undefined {
    return items[Math.floor(this.#next() * items.length)]
  }

  /** Picks by weight: an item of weight 2 comes twice as often as one of 1. */
  weighed<T extends { readonly weight: number }>(items: readonly T[]): T | undefined {
    let left = this.#next() * items.reduce((sum, { weight }) => sum + weight, 0)
    return items.find(({ weight }) => (left -= weight) < 0)
  }
}
