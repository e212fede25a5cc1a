import { readUint32 } from './bytes.js'

/** A range of addresses: 4 or 16 bytes without host bits, and how many bits count. */
export interface Range {
  readonly address: Uint8Array
  readonly length: number
}

/** 4 Mi slots are 16 MiB: a /8 cut into /30s. */
export const MAX_INDEX_BITS = 22

/** Tells whether addresses lie in a range: a word at a time, one for IPv4. */
export class RangeMatcher {
  readonly #words: Uint32Array
  readonly #masks: Uint32Array

  constructor({ address, length }: Range) {
    if (length < 0 || length > address.length * 8)
      throw new RangeError(`a prefix length of ${length}`)
    const count = Math.ceil(length / 32)
    this.#words = new Uint32Array(count)
    this.#masks = new Uint32Array(count)
    for (let word = 0; word < count; word++) {
      const bits = Math.min(32, length - 32 * word)
      this.#masks[word] = (0xffffffff << (32 - bits)) >>> 0
      this.#words[word] = readUint32(address, 4 * word)
      if ((this.#words[word]! & this.#masks[word]!) >>> 0 !== this.#words[word])
        throw new RangeError('a range has host bits')
    }
    for (let byte = 4 * count; byte < address.length; byte++)
      if (address[byte] !== 0) throw new RangeError('a range has host bits')
  }

  has(bytes: Uint8Array, start: number): boolean {
    for (let word = 0; word < this.#words.length; word++) {
      const value = readUint32(bytes, start + 4 * word)
      if ((value & this.#masks[word]!) >>> 0 !== this.#words[word]) return false
    }
    return true
  }
}

/**
 * Finds the subnet of an address with one array read, whichever the family. All
 * subnets of a network have one length, apart from leases that outlive a change
 * of SubnetLen, so the index is cut at the finest length present: the bits
 * between the network's length and that one are the slot.
 */
export class SubnetIndex {
  readonly #network: RangeMatcher
  /** Where the four bytes lie that hold the slot's bits. */
  readonly #byte: number
  readonly #shift: number
  readonly #mask: number
  /** Number plus one; 0 where no subnet is. */
  readonly #slots: Uint32Array

  /** @param subnets the last of two that are equal stands, and the finer of two that overlap. */
  constructor(network: Range, subnets: readonly { range: Range; number: number }[]) {
    const finest = subnets.reduce(
      (length, { range }) => Math.max(length, range.length),
      network.length,
    )
    const bits = finest - network.length
    if (bits > MAX_INDEX_BITS)
      throw new RangeError(`a /${network.length} in /${finest}s needs ${2 ** bits} slots`)
    this.#network = new RangeMatcher(network)
    this.#byte = Math.min(network.length >>> 3, network.address.length - 4)
    // JS shifts count modulo 32: with one slot for everything the mask is 0, and the shift does not matter.
    this.#shift = 32 - (finest - 8 * this.#byte)
    this.#mask = 2 ** bits - 1
    this.#slots = new Uint32Array(2 ** bits)
    const coarseFirst = [...subnets].sort((a, b) => a.range.length - b.range.length)
    for (const { range, number } of coarseFirst) this.#place(range, number, finest)
  }

  #place(range: Range, number: number, finest: number): void {
    new RangeMatcher(range) // no host bits
    if (range.length < 1 || !this.#network.has(range.address, 0))
      throw new RangeError('a subnet lies outside the network')
    const first = this.#slotOf(range.address, 0)
    const width = Math.min(this.#slots.length, 2 ** (finest - range.length))
    this.#slots.fill(number + 1, first, first + width)
  }

  #slotOf(bytes: Uint8Array, start: number): number {
    return (readUint32(bytes, start + this.#byte) >>> this.#shift) & this.#mask
  }

  /** The number of the subnet that holds the address, or -1. Allocates nothing. */
  lookup(bytes: Uint8Array, start: number): number {
    if (!this.#network.has(bytes, start)) return -1
    return this.#slots[this.#slotOf(bytes, start)]! - 1
  }

  /** Whether the address is one of the network, leased or not. */
  covers(bytes: Uint8Array, start: number): boolean {
    return this.#network.has(bytes, start)
  }
}
