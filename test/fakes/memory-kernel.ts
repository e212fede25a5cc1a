import koffi from 'koffi'
import * as libc from '../../lib/linux/libc.js'

const memcpy = koffi
  .load(null)
  .func('void *memcpy(void *to, const void *from, size_t length)') as (
  to: libc.Memory,
  from: libc.Memory,
  length: number,
) => void

// Of struct mmsghdr, struct iovec and struct cmsghdr on 64-bit Linux.
const MMSGHDR = 64
const IOVEC = 16
const CMSGHDR = 16

const [SOL_IP, IP_TOS, SOL_IPV6, IPV6_TCLASS] = [0, 1, 41, 67]
const [SOL_UDP, UDP_SEGMENT, UDP_GRO] = [17, 103, 104]
const MSG_TRUNC = 0x20

/** UDP_MAX_SEGMENTS of kernels before 6.9. */
const MAX_SEGMENTS = 64
const MAX_PAYLOAD = 65_507

/** What arrives at a socket: a datagram, or several of `segment` bytes (UDP_GRO). */
export interface Arrival {
  /** struct sockaddr_in or sockaddr_in6. */
  readonly from: Uint8Array
  readonly bytes: Uint8Array
  readonly segment?: number
  readonly trafficClass?: number
}

export interface SentDatagram {
  /** struct sockaddr_in or sockaddr_in6. */
  readonly to: Buffer
  readonly bytes: Buffer
  readonly trafficClass: number
}

/**
 * What a kernel does for one packet path: a TUN device and a UDP socket in
 * memory. It reads the structures that system calls are given as a kernel does,
 * and does not forgive what a kernel does not.
 */
export class MemoryKernel implements libc.PacketCalls {
  /** For the path to read from the device, with the virtio header. */
  readonly fromDevice: Uint8Array[] = []
  /** What the path wrote to the device, with the virtio header. */
  readonly toDevice: Buffer[] = []
  readonly arrivals: Arrival[] = []
  readonly sent: SentDatagram[] = []
  /** Why a message is not sent: its errno, 0 when it is. */
  sendError: (datagrams: number) => number = () => 0
  /** Whether the device takes what is written. */
  takes: (packet: Buffer) => boolean = () => true
  readonly #memory: { readonly start: number; readonly end: number }
  #errno = 0

  /** @param memory where packets must lie. */
  constructor(memory: Uint8Array) {
    const start = libc.addressOf(memory)
    this.#memory = { start, end: start + memory.length }
  }

  readonly errno = (): number => this.#errno

  readonly read = (_fd: number, to: libc.Memory, length: number): number => {
    const packet = this.fromDevice.shift()
    if (packet === undefined) return this.#fail(libc.EAGAIN)
    this.#expectInside(to, length)
    // A device cuts off what does not fit.
    const size = Math.min(length, packet.length)
    memcpy(to, packet, size)
    return size
  }

  readonly writev = (_fd: number, slices: libc.Memory, count: number): number => {
    if (count > 1024) return this.#fail(libc.EINVAL)
    const packet = this.#gather(addressIn(slices), count)
    if (!this.takes(packet)) return this.#fail(libc.EINVAL)
    this.toDevice.push(packet)
    return packet.length
  }

  readonly sendmmsg = (_fd: number, messages: libc.Memory, count: number): number => {
    for (let index = 0; index < count; index++) {
      const at = addressIn(messages) + index * MMSGHDR
      const error = this.#send(at)
      if (error === 0) continue
      this.#errno = error
      return index === 0 ? -1 : index
    }
    return count
  }

  readonly recvmmsg = (_fd: number, messages: libc.Memory, count: number): number => {
    let index = 0
    for (; index < count; index++) {
      const arrival = this.arrivals.shift()
      if (arrival === undefined) break
      this.#receive(addressIn(messages) + index * MMSGHDR, arrival)
    }
    return index === 0 ? this.#fail(libc.EAGAIN) : index
  }

  #fail(errno: number): number {
    this.#errno = errno
    return -1
  }

  #send(at: number): number {
    const header = copyOf(at, MMSGHDR)
    const to = copyOf(pointer(header, 0), header.readUInt32LE(8))
    const payload = this.#gather(pointer(header, 16), header.readUInt32LE(24))
    let [segment, trafficClass] = [0, 0]
    for (const { level, type, value } of readControl(header)) {
      if (level === SOL_UDP && type === UDP_SEGMENT) segment = value.readUInt16LE()
      else if (level === SOL_IP && type === IP_TOS && to[0] === 2)
        trafficClass = value.readInt32LE()
      else if (level === SOL_IPV6 && type === IPV6_TCLASS && to[0] === 10)
        trafficClass = value.readInt32LE()
      else return libc.EINVAL
    }
    if (payload.length > MAX_PAYLOAD) return libc.EMSGSIZE
    const datagrams = segment === 0 ? [payload] : cut(payload, segment)
    if (datagrams.length > MAX_SEGMENTS) return libc.EINVAL
    const error = this.sendError(datagrams.length)
    if (error !== 0) return error
    for (const bytes of datagrams) this.sent.push({ to, bytes, trafficClass })
    const sent = Buffer.alloc(4)
    sent.writeUInt32LE(payload.length)
    memcpy(at + 56, sent, 4)
    return 0
  }

  #receive(at: number, { from, bytes, segment, trafficClass = 0 }: Arrival): void {
    const header = copyOf(at, MMSGHDR)
    memcpy(pointer(header, 0), from, Math.min(from.length, header.readUInt32LE(8)))
    header.writeUInt32LE(from.length, 8)
    const iovec = copyOf(pointer(header, 16), IOVEC)
    const [buffer, room] = [pointer(iovec, 0), Number(iovec.readBigUInt64LE(8))]
    this.#expectInside(buffer, room)
    const size = Math.min(room, bytes.length)
    memcpy(buffer, bytes, size)
    const isIpv4 = from[0] === 2
    const control = Buffer.concat([
      ...(segment === undefined ? [] : [controlMessage(SOL_UDP, UDP_GRO, segment)]),
      isIpv4
        ? controlMessage(SOL_IP, IP_TOS, trafficClass)
        : controlMessage(SOL_IPV6, IPV6_TCLASS, trafficClass),
    ])
    memcpy(pointer(header, 32), control, control.length)
    header.writeUInt32LE(control.length, 40)
    header.writeInt32LE(bytes.length > room ? MSG_TRUNC : 0, 48)
    header.writeUInt32LE(size, 56)
    memcpy(at, header, MMSGHDR)
  }

  #gather(iovecs: number, count: number): Buffer {
    const slices: Buffer[] = []
    for (let index = 0; index < count; index++) {
      const iovec = copyOf(iovecs + index * IOVEC, IOVEC)
      const [start, length] = [pointer(iovec, 0), Number(iovec.readBigUInt64LE(8))]
      this.#expectInside(start, length)
      slices.push(copyOf(start, length))
    }
    return Buffer.concat(slices)
  }

  #expectInside(memory: libc.Memory, length: number): void {
    const start = addressIn(memory)
    if (start < this.#memory.start || start + length > this.#memory.end)
      throw new Error(`${length} bytes at ${start} are not the packets' memory`)
  }
}

function addressIn(memory: libc.Memory): number {
  if (typeof memory !== 'number') throw new TypeError('hot calls are given addresses')
  return memory
}

function copyOf(address: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  if (length > 0) memcpy(bytes, address, length)
  return bytes
}

function pointer(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at))
}

function cut(payload: Buffer, size: number): Buffer[] {
  const count = Math.ceil(payload.length / size)
  return Array.from({ length: count }, (_, index) =>
    payload.subarray(index * size, (index + 1) * size),
  )
}

function* readControl(
  header: Buffer,
): Generator<{ level: number; type: number; value: Buffer }> {
  const control = copyOf(pointer(header, 32), header.readUInt32LE(40))
  for (let at = 0; at < control.length;) {
    const length = Number(control.readBigUInt64LE(at))
    if (length < CMSGHDR || at + length > control.length)
      throw new Error(`a control message of ${length} bytes`)
    const [level, type] = [control.readInt32LE(at + 8), control.readInt32LE(at + 12)]
    yield { level, type, value: control.subarray(at + CMSGHDR, at + length) }
    at += Math.ceil(length / 8) * 8
  }
}

function controlMessage(level: number, type: number, value: number): Buffer {
  const message = Buffer.alloc(CMSGHDR + 8)
  message.writeBigUInt64LE(BigInt(CMSGHDR + 4))
  message.writeInt32LE(level, 8)
  message.writeInt32LE(type, 12)
  message.writeInt32LE(value, CMSGHDR)
  return message
}
