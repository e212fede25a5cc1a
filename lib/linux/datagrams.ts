import * as libc from './libc.js'

// include/linux/socket.h, include/uapi/linux/udp.h, in.h, in6.h, asm-generic/socket.h
const MSG_DONTWAIT = 0x40
const MSG_TRUNC = 0x20
const SOL_SOCKET = 1
const SO_RXQ_OVFL = 40
const IPPROTO_IP = 0
const IP_TOS = 1
const IPPROTO_IPV6 = 41
const IPV6_TCLASS = 67
const SOL_UDP = 17
const UDP_SEGMENT = 103
const UDP_GRO = 104

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
const CONTROL = 32
const CONTROL_LENGTH = 40
const FLAGS = 48
const TRANSFERRED = 56

/** struct iovec: address, length. */
const IOVEC = 16

/** struct cmsghdr: length (8 bytes), level (4), type (4), then the value, each message padded to 8 bytes. */
const CMSGHDR = 16
const CMSG_LEVEL = 8
const CMSG_TYPE = 12
const CMSG_SPACE = 24

/** Bytes of the longer of struct sockaddr_in and sockaddr_in6. */
export const SOCKADDR_SIZE = 28

/** struct sockaddr_in or sockaddr_in6 by its family, in the first byte on a little-endian machine. */
const AF_INET = 2

/** Memory as 32-bit words, which V8 writes without boxing, and its address. */
class Words {
  readonly #buffer: Buffer
  readonly words: Uint32Array
  readonly address: number

  constructor(size: number) {
    this.#buffer = Buffer.alloc(size)
    const { buffer, byteOffset } = this.#buffer
    this.words = new Uint32Array(buffer, byteOffset, size >>> 2)
    this.address = libc.addressOf(this.#buffer)
  }

  get bytes(): Buffer {
    return this.#buffer
  }

  /** Writes a 64-bit address, low half first: Node runs on little-endian machines alone. */
  setAddress(at: number, address: number): void {
    this.words[at >>> 2] = address >>> 0
    this.words[(at >>> 2) + 1] = (address / 2 ** 32) >>> 0
  }

  set(at: number, value: number): void {
    this.words[at >>> 2] = value
  }

  get(at: number): number {
    return this.words[at >>> 2] ?? 0
  }
}

/**
 * Slices of memory that one system call reads or writes as if they were one
 * piece. Nothing is allocated after the start.
 */
export class SliceVector {
  readonly #iovecs: Words
  readonly #base: number
  readonly #calls: libc.PacketCalls
  readonly capacity: number
  count = 0

  /** @param memory that every slice lies in; the caller keeps it. */
  constructor(memory: Uint8Array, capacity: number, calls: libc.PacketCalls = libc) {
    this.#calls = calls
    this.#iovecs = new Words(capacity * IOVEC)
    this.#base = libc.addressOf(memory)
    this.capacity = capacity
  }

  get room(): number {
    return this.capacity - this.count
  }

  /** @param start in the memory. */
  add(start: number, length: number): void {
    const at = this.count * IOVEC
    this.#iovecs.setAddress(at, this.#base + start)
    this.#iovecs.set(at + 8, length)
    this.count += 1
  }

  addressOf(index: number): number {
    return this.#iovecs.address + index * IOVEC
  }

  /** Writes all slices with one call. Returns the bytes written, or -1. */
  write(fd: number): number {
    return this.#calls.writev(fd, this.#iovecs.address, this.count)
  }
}

/** What one message of a SendQueue carries. */
export interface SendOptions {
  readonly messages: number
  /** Slices that all messages together have. */
  readonly slices: number
}

/**
 * Datagrams to send with one call. A message has a destination and slices; with
 * a segment size the kernel cuts it into datagrams of that size (UDP_SEGMENT).
 */
export class SendQueue {
  readonly slices: SliceVector
  count = 0
  readonly #capacity: number
  readonly #headers: Words
  readonly #controls: Words
  readonly #calls: libc.PacketCalls

  constructor(
    memory: Uint8Array,
    { messages, slices }: SendOptions,
    calls: libc.PacketCalls = libc,
  ) {
    this.slices = new SliceVector(memory, slices)
    this.#calls = calls
    this.#capacity = messages
    // One more for a message that is sent alone.
    this.#headers = new Words((messages + 1) * MMSGHDR)
    // Each has both control messages ready; which of them count is decided by where they begin and end.
    this.#controls = new Words(messages * 2 * CMSG_SPACE)
    for (let index = 0; index < messages; index++) {
      const at = index * 2 * CMSG_SPACE
      this.#controls.set(at, CMSGHDR + 2)
      this.#controls.set(at + CMSG_LEVEL, SOL_UDP)
      this.#controls.set(at + CMSG_TYPE, UDP_SEGMENT)
      this.#controls.set(at + CMSG_SPACE, CMSGHDR + 4)
    }
  }

  get isFull(): boolean {
    return this.count === this.#capacity
  }

  reset(): void {
    this.count = 0
    this.slices.count = 0
  }

  /**
   * Begins a message; the slices added next are its. The caller keeps the name in
   * place until the send returns.
   *
   * @param name address of a struct sockaddr_in or sockaddr_in6.
   * @param segmentSize of each datagram but the last; 0 for a single one.
   * @param trafficClass DSCP and ECN of the outer header.
   */
  begin(name: number, isIpv4: boolean, segmentSize: number, trafficClass: number): void {
    const index = this.count++
    const header = index * MMSGHDR
    const headers = this.#headers
    headers.setAddress(header + NAME, name)
    headers.set(header + NAME_LENGTH, isIpv4 ? 16 : SOCKADDR_SIZE)
    headers.setAddress(header + IOV, this.slices.addressOf(this.slices.count))
    headers.set(header + IOV_COUNT, 0)

    const control = index * 2 * CMSG_SPACE
    const tos = control + CMSG_SPACE
    this.#controls.set(control + CMSGHDR, segmentSize)
    this.#controls.set(tos + CMSG_LEVEL, isIpv4 ? IPPROTO_IP : IPPROTO_IPV6)
    this.#controls.set(tos + CMSG_TYPE, isIpv4 ? IP_TOS : IPV6_TCLASS)
    this.#controls.set(tos + CMSGHDR, trafficClass)
    const from = segmentSize > 0 ? control : tos
    const until = trafficClass > 0 ? tos + CMSG_SPACE : tos
    headers.setAddress(header + CONTROL, this.#controls.address + from)
    headers.set(header + CONTROL_LENGTH, until - from)
  }

  /** Adds a slice to the message begun last. */
  slice(start: number, length: number): void {
    this.slices.add(start, length)
    const at = (this.count - 1) * MMSGHDR + IOV_COUNT
    this.#headers.set(at, this.#headers.get(at) + 1)
  }

  /**
   * Sends the messages from `first` on. Returns how many left: when none did, the
   * first one failed, and errno says why.
   */
  send(fd: number, first: number): number {
    const at = this.#headers.address + first * MMSGHDR
    return Math.max(0, this.#calls.sendmmsg(fd, at, this.count - first, 0))
  }

  /**
   * Sends some slices of a message as a datagram of its own, uncut. Returns 0 or
   * the errno.
   */
  sendAlone(fd: number, message: number, firstSlice: number, count: number): number {
    const headers = this.#headers
    const from = message * MMSGHDR
    const to = this.#capacity * MMSGHDR
    for (let at = NAME; at < IOV; at += 4) headers.set(to + at, headers.get(from + at))
    const slices = headers.get(from + IOV + 4) * 2 ** 32 + headers.get(from + IOV)
    headers.setAddress(to + IOV, slices + firstSlice * IOVEC)
    headers.set(to + IOV_COUNT, count)
    const tos = (2 * message + 1) * CMSG_SPACE
    headers.setAddress(to + CONTROL, this.#controls.address + tos)
    const hasTos = this.#controls.get(tos + CMSGHDR) > 0
    headers.set(to + CONTROL_LENGTH, hasTos ? CMSG_SPACE : 0)
    const sent = this.#calls.sendmmsg(fd, headers.address + to, 1, 0)
    return sent < 1 ? this.#calls.errno() : 0
  }
}

/** Room for what the kernel says beside a datagram: segment size, traffic class, count of drops. */
const RECEIVE_CONTROL = 4 * CMSG_SPACE

/** Buffers for datagrams to receive with one call, equal pieces of one memory. */
export class ReceiveQueue {
  readonly capacity: number
  /** struct sockaddr_in or sockaddr_in6 of each message, SOCKADDR_SIZE bytes apart. */
  readonly names: Buffer
  /** Datagrams that the kernel has dropped for want of room since the socket was opened. */
  dropped = 0
  readonly #start: number
  readonly #size: number
  readonly #headers: Words
  readonly #controls: Words
  readonly #segmentSizes: Int32Array
  readonly #trafficClasses: Int32Array
  readonly #calls: libc.PacketCalls

  /** @param start of the first buffer of `size` bytes in the memory, which the caller keeps. */
  constructor(
    memory: Uint8Array,
    capacity: number,
    start: number,
    size: number,
    calls: libc.PacketCalls = libc,
  ) {
    this.#calls = calls
    this.capacity = capacity
    this.#start = start
    this.#size = size
    // The iovecs lie behind the headers that point at them.
    this.#headers = new Words(capacity * (MMSGHDR + IOVEC))
    this.#controls = new Words(capacity * RECEIVE_CONTROL)
    this.#segmentSizes = new Int32Array(capacity)
    this.#trafficClasses = new Int32Array(capacity)
    const names = new Words(Math.ceil((capacity * SOCKADDR_SIZE) / 4) * 4)
    this.names = names.bytes
    const base = libc.addressOf(memory)
    for (let index = 0; index < capacity; index++) {
      const header = index * MMSGHDR
      const iovec = capacity * MMSGHDR + index * IOVEC
      this.#headers.setAddress(iovec, base + this.startOf(index))
      this.#headers.set(iovec + 8, size)
      this.#headers.setAddress(header + NAME, names.address + index * SOCKADDR_SIZE)
      this.#headers.setAddress(header + IOV, this.#headers.address + iovec)
      this.#headers.set(header + IOV_COUNT, 1)
      this.#headers.setAddress(
        header + CONTROL,
        this.#controls.address + index * RECEIVE_CONTROL,
      )
    }
  }

  /** Takes what has arrived, up to `most` messages, without waiting. Returns how many. */
  receive(fd: number, most: number): number {
    const count = Math.min(most, this.capacity)
    const headers = this.#headers
    for (let index = 0; index < count; index++) {
      headers.set(index * MMSGHDR + NAME_LENGTH, SOCKADDR_SIZE)
      headers.set(index * MMSGHDR + CONTROL_LENGTH, RECEIVE_CONTROL)
    }
    const received = this.#calls.recvmmsg(fd, headers.address, count, MSG_DONTWAIT, null)
    for (let index = 0; index < received; index++) this.#readControl(index)
    return Math.max(0, received)
  }

  #readControl(index: number): void {
    const controls = this.#controls
    this.#segmentSizes[index] = 0
    this.#trafficClasses[index] = 0
    const begin = index * RECEIVE_CONTROL
    const end = begin + this.#headers.get(index * MMSGHDR + CONTROL_LENGTH)
    for (let at = begin; at + CMSGHDR <= end;) {
      const length = controls.get(at)
      if (length < CMSGHDR) return
      const level = controls.get(at + CMSG_LEVEL)
      const type = controls.get(at + CMSG_TYPE)
      const value = controls.get(at + CMSGHDR)
      if (level === SOL_UDP && type === UDP_GRO) this.#segmentSizes[index] = value
      else if (level === IPPROTO_IP && type === IP_TOS)
        this.#trafficClasses[index] = value & 0xff // one byte of it is the kernel's
      else if (level === IPPROTO_IPV6 && type === IPV6_TCLASS)
        this.#trafficClasses[index] = value
      else if (level === SOL_SOCKET && type === SO_RXQ_OVFL) this.dropped = value
      at += (length + 7) & ~7
    }
  }

  /** Where the bytes of a message begin in the memory. */
  startOf(index: number): number {
    return this.#start + index * this.#size
  }

  /** Bytes of a message, or -1 when it was longer than its buffer. */
  lengthOf(index: number): number {
    const header = index * MMSGHDR
    if ((this.#headers.get(header + FLAGS) & MSG_TRUNC) !== 0) return -1
    return this.#headers.get(header + TRANSFERRED)
  }

  /** Bytes of each datagram of a message but the last; 0 when it is a single one (UDP_GRO). */
  segmentSizeOf(index: number): number {
    return this.#segmentSizes[index] ?? 0
  }

  /** DSCP and ECN of the outer header. */
  trafficClassOf(index: number): number {
    return this.#trafficClasses[index] ?? 0
  }

  /** Where the source address lies in `names`. */
  sourceStart(index: number): number {
    const name = index * SOCKADDR_SIZE
    return name + (this.names[name] === AF_INET ? 4 : 8)
  }

  /** 4 or 16. */
  sourceLength(index: number): number {
    return this.names[index * SOCKADDR_SIZE] === AF_INET ? 4 : 16
  }
}
