/** Between two words to the packet path. */
export const PERMIT_INTERVAL_MS = 10_000

/**
 * How far ahead forwarding is allowed while nothing proves our hold: long enough
 * to be extended again in time, and no longer, since the daemon may die and the
 * subnet be another's.
 */
const GRACE_MS = 3 * PERMIT_INTERVAL_MS

/** So shortly before its end a lease that was not renewed counts as unproven. */
const MARGIN_MS = 2 * PERMIT_INTERVAL_MS

/** No permit reaches further, not even that of a reservation, which has no end. */
const LONGEST_MS = 86_400_000

/**
 * How long this host may forward from its subnet. While the lease is proven:
 * until it ends. Beyond, as long as the daemon is there to say so every time
 * before the permit runs out, since an outage of etcd must not stop the network.
 * A permit that has run out, because the daemon died or the machine slept, is
 * only renewed by proof: the subnet may be somebody else's by now.
 */
export class Permit {
  #until: number
  #isWithdrawn = false

  /** @param until what an earlier run of the daemon allowed, in ms of the clock. */
  constructor(until = 0) {
    this.#until = until
  }

  /** Clock time until which packets may flow. */
  get until(): number {
    return this.#until
  }

  /** @param provenUntil clock time at which the registry may give the subnet away. */
  extend(now: number, provenUntil: number): number {
    if (this.#isWithdrawn) return 0
    const isUnbroken = now < this.#until || now < provenUntil
    if (now < provenUntil - MARGIN_MS) {
      this.#until = Math.min(provenUntil, now + LONGEST_MS)
    } else if (isUnbroken) {
      this.#until = Math.max(provenUntil, now + GRACE_MS)
    }
    return this.#until
  }

  /** Ends it at once and for good: whatever is proven later is too late. */
  withdraw(): void {
    this.#isWithdrawn = true
    this.#until = 0
  }
}
