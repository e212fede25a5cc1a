/** Why a packet was given up. The value is an index into the counters; 0 is no drop. */
export const Drop = {
  none: 0,
  // Either direction.
  tooShort: 1,
  notIpv4: 2,
  badHeader: 3,
  noPermit: 4,
  // From the TUN.
  noRoute: 5,
  sendFailed: 6,
  // From the underlay.
  truncated: 7,
  unknownSender: 8,
  wrongSource: 9,
  wrongDestination: 10,
  writeFailed: 11,
  // From the TUN, a container with an address that this host had once.
  foreignSource: 12,
} as const

export type DropReason = keyof typeof Drop

/** Names by value, for people and metrics. */
export const DROP_REASONS = Object.keys(Drop) as readonly DropReason[]

/** What one sender did wrong, and how often. Addresses are unsigned 32-bit numbers. */
export interface Offender {
  readonly reason: number
  readonly outer: number
  readonly inner: number
  readonly count: number
}

/**
 * Counts drops by reason, and remembers the latest offenders among the
 * datagrams that other hosts sent. The memory is bounded: a sender that forges
 * addresses pushes out older entries and nothing else.
 */
export class DropLedger {
  readonly counts = new Float64Array(DROP_REASONS.length)
  readonly #reason: Uint8Array
  readonly #outer: Uint32Array
  readonly #inner: Uint32Array
  readonly #count: Float64Array
  #next = 0

  constructor(capacity = 32) {
    this.#reason = new Uint8Array(capacity)
    this.#outer = new Uint32Array(capacity)
    this.#inner = new Uint32Array(capacity)
    this.#count = new Float64Array(capacity)
  }

  /** Counts packets that have no sender to blame. */
  count(reason: number, packets = 1): void {
    this.counts[reason]! += packets
  }

  /** Counts a datagram from `outer` whose packet claimed to come from `inner`. */
  blame(reason: number, outer: number, inner: number): void {
    this.counts[reason]! += 1
    for (let slot = 0; slot < this.#reason.length; slot++) {
      if (
        this.#outer[slot] === outer &&
        this.#reason[slot] === reason &&
        this.#inner[slot] === inner
      ) {
        this.#count[slot]! += 1
        return
      }
    }
    const slot = this.#next
    this.#next = (slot + 1) % this.#reason.length
    this.#reason[slot] = reason
    this.#outer[slot] = outer
    this.#inner[slot] = inner
    this.#count[slot] = 1
  }

  offenders(): Offender[] {
    const found: Offender[] = []
    for (let slot = 0; slot < this.#reason.length; slot++) {
      const reason = this.#reason[slot]!
      if (reason === Drop.none) continue
      found.push({
        reason,
        outer: this.#outer[slot]!,
        inner: this.#inner[slot]!,
        count: this.#count[slot]!,
      })
    }
    return found
  }
}
