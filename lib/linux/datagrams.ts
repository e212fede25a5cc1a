import * as libc from './libc.js'

// include/linux/socket.h
const MSG_DONTWAIT = 0x40
const MSG_TRUNC = 0x20

/**
 * struct mmsghdr on 64-bit Linux, and where its fields are:
 *
 *   0 name  8 name length  16 iovec  24 iovec count  32 control  40 control length
 *   48 flags  56 bytes transferred
 */
const MMSGHDR = 64
const NAME = 0
const NAME_LENGTH = 8
const IOV = 16
const IOV_COUNT = 24
const FLAGS = 48
const TRANSFERRED = 56

/** struct iovec: address, length. */
const IOVEC = 16
const SOCKADDR_IN = 16

/**
 * Arrays for sendmmsg(2) and recvmmsg(2), built once: message i has one buffer
 * and one IPv4 name. Nothing is allocated per datagram.
 */
class MessageVector {
  protected readonly headers: Buffer
  protected readonly iovecs: Buffer
  protected readonly headersAddress: number
  // The same memory as 32-bit words, which V8 writes without boxing.
  protected readonly headerWords: Uint32Array
  protected readonly iovecWords: Uint32Array

  constructor(count: number) {
    this.headers = Buffer.alloc(count * MMSGHDR)
    this.iovecs = Buffer.alloc(count * IOVEC)
    this.headersAddress = libc.addressOf(this.headers)
    this.headerWords = wordsOf(this.headers)
    this.iovecWords = wordsOf(this.iovecs)
    const iovecsAddress = libc.addressOf(this.iovecs)
    for (let index = 0; index < count; index++) {
      const words = this.headerWords
      const start = index * MMSGHDR
      writeAddress(words, start + IOV, iovecsAddress + index * IOVEC)
      words[(start + IOV_COUNT) >>> 2] = 1
      words[(start + NAME_LENGTH) >>> 2] = SOCKADDR_IN
    }
  }
}

function wordsOf(buffer: Buffer): Uint32Array {
  return new Uint32Array(buffer.buffer, buffer.byteOffset, buffer.length >>> 2)
}

/** Writes a 64-bit address, low half first: Node runs on little-endian machines alone. */
function writeAddress(words: Uint32Array, at: number, address: number): void {
  words[at >>> 2] = address >>> 0
  words[(at >>> 2) + 1] = Math.floor(address / 2 ** 32)
}

/** Datagrams to send with one call; each names its own buffer and destination. */
export class SendVector extends MessageVector {
  /** The caller keeps both memories in place until the send returns. */
  set(
    index: number,
    sockaddrAddress: number,
    bytesAddress: number,
    length: number,
  ): void {
    writeAddress(this.headerWords, index * MMSGHDR + NAME, sockaddrAddress)
    writeAddress(this.iovecWords, index * IOVEC, bytesAddress)
    this.iovecWords[(index * IOVEC + 8) >>> 2] = length
  }

  /**
   * Sends messages `first` to `end - 1`. Returns how many left: fewer than asked
   * means that the next one failed.
   */
  send(fd: number, first: number, end: number): number {
    const sent = libc.sendmmsg(fd, this.headersAddress + first * MMSGHDR, end - first, 0)
    return Math.max(0, sent)
  }
}

/** Buffers for datagrams to receive with one call; buffer i is `slotSize` bytes of one slab. */
export class ReceiveVector extends MessageVector {
  readonly slab: Buffer
  readonly slabAddress: number
  readonly slotSize: number
  readonly #count: number
  readonly #names: Buffer

  constructor(count: number, slotSize: number) {
    super(count)
    this.#count = count
    this.slotSize = slotSize
    this.slab = Buffer.alloc(count * slotSize)
    this.slabAddress = libc.addressOf(this.slab)
    this.#names = Buffer.alloc(count * SOCKADDR_IN)
    const namesAddress = libc.addressOf(this.#names)
    for (let index = 0; index < count; index++) {
      writeAddress(
        this.headerWords,
        index * MMSGHDR + NAME,
        namesAddress + index * SOCKADDR_IN,
      )
      writeAddress(this.iovecWords, index * IOVEC, this.slabAddress + index * slotSize)
      this.iovecWords[(index * IOVEC + 8) >>> 2] = slotSize
    }
  }

  /** Takes what has arrived, without waiting. Returns how many datagrams. */
  receive(fd: number): number {
    for (let index = 0; index < this.#count; index++) {
      this.headerWords[(index * MMSGHDR + NAME_LENGTH) >>> 2] = SOCKADDR_IN
    }
    return Math.max(
      0,
      libc.recvmmsg(fd, this.headersAddress, this.#count, MSG_DONTWAIT, null),
    )
  }

  /** Bytes of datagram `index`, or -1 when it was longer than its slot. */
  length(index: number): number {
    const start = index * MMSGHDR
    const flags = this.headerWords[(start + FLAGS) >>> 2] ?? 0
    if ((flags & MSG_TRUNC) !== 0) return -1
    return this.headerWords[(start + TRANSFERRED) >>> 2] ?? 0
  }

  /** IPv4 source address of datagram `index`, unsigned. */
  source(index: number): number {
    return this.#names.readUInt32BE(index * SOCKADDR_IN + 4)
  }
}
