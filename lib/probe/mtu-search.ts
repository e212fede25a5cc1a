/** So many packets of a size must be lost, while small ones pass, before the size is. */
const LOSSES = 3

/** A search ends when the answer is known to so many bytes. */
const CLOSE_ENOUGH = 8

/**
 * Finds the longest packet that a path takes (RFC 8899 in small): the full size
 * first, then what a router says, and where routers say nothing, by halves.
 */
export class MtuSearch {
  readonly #least: number
  readonly #full: number
  /** The longest that came back. */
  #good: number
  /** The shortest that did not; above the full size when that came back. */
  #bad: number
  #losses = 0
  /** A router's word for the next size. */
  #hint: number | undefined
  /** What the search before this one has found. */
  #known: number | undefined

  /** @param least what every path takes. @param full what the link takes. */
  constructor(least: number, full: number) {
    this.#least = least
    this.#full = full
    this.#good = least
    this.#bad = full + 1
  }

  /** Looks again: paths change. What was found counts until there is an answer. */
  restart(): void {
    this.#known = this.pathMtu
    this.#good = this.#least
    this.#bad = this.#full + 1
    this.#losses = 0
    this.#hint = undefined
  }

  get isDone(): boolean {
    return this.#bad - this.#good <= (this.#bad > this.#full ? 1 : CLOSE_ENOUGH)
  }

  /** The size of the next packet. */
  get next(): number {
    if (this.#bad > this.#full) return this.#full
    const hint = this.#hint
    if (hint !== undefined && hint > this.#good && hint < this.#bad) return hint
    return Math.floor((this.#good + this.#bad) / 2)
  }

  /** Undefined as long as it is not known. */
  get pathMtu(): number | undefined {
    return this.isDone ? this.#good : this.#known
  }

  passed(size: number): void {
    this.#good = Math.max(this.#good, size)
    // What a router named and passes is the answer.
    if (size === this.#hint) this.#bad = Math.min(this.#bad, size + 1)
    this.#losses = 0
  }

  /** @param arePassing whether small packets come back at present. */
  lost(size: number, arePassing: boolean): void {
    if (!arePassing) return
    this.#losses += 1
    if (this.#losses < LOSSES) return
    this.#bad = Math.min(this.#bad, size)
    this.#losses = 0
  }

  /** @param mtu that a router told; 0 for none. */
  tooBig(size: number, mtu: number): void {
    this.#bad = Math.min(this.#bad, size)
    this.#losses = 0
    if (mtu >= this.#least && mtu < size) this.#hint = mtu
  }
}
