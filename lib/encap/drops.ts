import { equalBytes } from './bytes.js'

/** Why a packet was given up. The value is an index into the counters; 0 is no drop. */
export const Drop = {
  none: 0,
  // Either direction.
  tooShort: 1,
  notIp: 2,
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
  // From the TUN, longer than the way to its remote and not to be fragmented.
  tooBig: 13,
  // From the underlay: a router marked congestion on a packet that cannot carry the mark (RFC 6040).
  congestion: 14,
} as const

export type DropReason = keyof typeof Drop

/** Names by value, for people and metrics. */
export const DROP_REASONS = Object.keys(Drop) as readonly DropReason[]

/** What one sender did wrong, and how often. Addresses are 4 or 16 bytes, or none where the packet had none. */
export interface Offender {
  readonly reason: number
  readonly outer: Uint8Array
  readonly inner: Uint8Array
  readonly count: number
}

const ADDRESS = 16
/** Both addresses with the length of each. */
const ENTRY = 2 * (1 + ADDRESS)
const INNER = 1 + ADDRESS

/**
 * Counts drops by reason, and remembers the latest offenders among the
 * datagrams that other hosts sent. The memory is bounded: a sender that forges
 * addresses pushes out older entries and nothing else.
 */
export class DropLedger {
  readonly counts = new Float64Array(DROP_REASONS.length)
  readonly #reasons: Uint8Array
  readonly #addresses: Uint8Array
  readonly #counts: Float64Array
  readonly #entry = new Uint8Array(ENTRY)
  #next = 0

  constructor(capacity = 32) {
    this.#reasons = new Uint8Array(capacity)
    this.#addresses = new Uint8Array(capacity * ENTRY)
    this.#counts = new Float64Array(capacity)
  }

  /** Counts packets that have no sender to blame. */
  count(reason: number, packets = 1): void {
    this.counts[reason]! += packets
  }

  /**
   * Counts a datagram whose packet claimed to come from an inner address.
   *
   * @param outerLength 4 or 16 bytes at `outerStart`.
   * @param innerLength the same, or 0 for none.
   */
  blame(
    reason: number,
    outer: Uint8Array,
    outerStart: number,
    outerLength: number,
    inner: Uint8Array,
    innerStart: number,
    innerLength: number,
  ): void {
    this.counts[reason]! += 1
    const entry = this.#entry
    entry.fill(0)
    entry[0] = outerLength
    for (let index = 0; index < outerLength; index++)
      entry[1 + index] = outer[outerStart + index]!
    entry[INNER] = innerLength
    for (let index = 0; index < innerLength; index++)
      entry[INNER + 1 + index] = inner[innerStart + index]!
    for (let slot = 0; slot < this.#reasons.length; slot++) {
      if (
        this.#reasons[slot] === reason &&
        equalBytes(this.#addresses, slot * ENTRY, entry, 0, ENTRY)
      ) {
        this.#counts[slot]! += 1
        return
      }
    }
    const slot = this.#next
    this.#next = (slot + 1) % this.#reasons.length
    this.#reasons[slot] = reason
    this.#addresses.set(entry, slot * ENTRY)
    this.#counts[slot] = 1
  }

  offenders(): Offender[] {
    const found: Offender[] = []
    for (let slot = 0; slot < this.#reasons.length; slot++) {
      const reason = this.#reasons[slot]!
      if (reason === Drop.none) continue
      const at = slot * ENTRY
      found.push({
        reason,
        outer: this.#address(at),
        inner: this.#address(at + INNER),
        count: this.#counts[slot]!,
      })
    }
    return found
  }

  #address(at: number): Uint8Array {
    return this.#addresses.slice(at + 1, at + 1 + this.#addresses[at]!)
  }
}
