import * as libc from './libc.js'

// linux/if_packet.h, if_ether.h, asm-generic/socket.h; poll(2).
const AF_PACKET = 17
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const ETH_P_ALL = 0x0003
const ETH_P_IP = 0x0800
const ETH_P_IPV6 = 0x86dd
const PACKET_OUTGOING = 4
const SOL_PACKET = 263
const PACKET_STATISTICS = 6
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
const SO_TIMESTAMPNS = 35
const MSG_TRUNC = 0x20
const POLLIN = 1

/** struct sockaddr_ll: family, protocol at 2 (network order), interface at 4, packet type at 10. */
const SOCKADDR_LL = 20
const LL_PROTOCOL = 2
const LL_INDEX = 4
const LL_TYPE = 10

/** struct msghdr on 64-bit Linux: name, its length at 8, iovec at 16, count at 24, control at 32, its length at 40. */
const MSGHDR = 56
const IOVEC = 16

/** struct cmsghdr is length (8 bytes), level (4), type (4); a struct timespec follows. */
const CMSGHDR = 16
const CONTROL = 64

const BUFFER = 8 << 20

/** A packet that an interface sent or received. */
export interface TappedPacket {
  /** The IP packet, cut to the snapshot length; valid until the next one is read. */
  readonly bytes: Buffer
  /** Bytes that it has uncut. */
  readonly length: number
  readonly isOutgoing: boolean
  /** Since 1970, by the kernel's clock when it saw the packet. */
  readonly timeNs: bigint
}

/** Sees the IP packets of one interface, both ways, as tcpdump(8) does (packet(7)). */
export class PacketTap {
  readonly #fd: number
  readonly #bytes: Buffer
  readonly #name = Buffer.alloc(SOCKADDR_LL)
  readonly #control = Buffer.alloc(CONTROL)
  readonly #iovec = Buffer.alloc(IOVEC)
  readonly #header = Buffer.alloc(MSGHDR)
  readonly #wanted = Buffer.alloc(8)
  #missed = 0

  private constructor(fd: number, snapshotLength: number) {
    this.#fd = fd
    this.#bytes = Buffer.alloc(snapshotLength)
    const address = (view: Buffer): bigint => BigInt(libc.addressOf(view))
    this.#iovec.writeBigUInt64LE(address(this.#bytes), 0)
    this.#iovec.writeBigUInt64LE(BigInt(snapshotLength), 8)
    this.#header.writeBigUInt64LE(address(this.#name), 0)
    this.#header.writeBigUInt64LE(address(this.#iovec), 16)
    this.#header.writeBigUInt64LE(1n, 24)
    this.#header.writeBigUInt64LE(address(this.#control), 32)
    this.#wanted.writeInt32LE(fd, 0)
    this.#wanted.writeUInt32LE(POLLIN, 4)
  }

  /** Throws SystemError without CAP_NET_RAW, or when the interface is gone. */
  static open(ifindex: number, snapshotLength: number): PacketTap {
    // Bound before it hears of anything: nothing of other interfaces comes.
    const fd = libc.socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if (fd < 0) throw libc.lastError('a socket for packets')
    const tap = new PacketTap(fd, snapshotLength)
    try {
      const one = Buffer.from(Uint32Array.of(1).buffer)
      const size = Buffer.from(Uint32Array.of(BUFFER).buffer)
      // Without CAP_NET_ADMIN the buffer stays as it is.
      libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, size, 4)
      if (libc.setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, one, 4) < 0)
        throw libc.lastError('SO_TIMESTAMPNS')
      const address = Buffer.alloc(SOCKADDR_LL)
      address.writeUInt16LE(AF_PACKET, 0)
      address.writeUInt16BE(ETH_P_ALL, LL_PROTOCOL)
      address.writeInt32LE(ifindex, LL_INDEX)
      if (libc.bind(fd, address, address.length) < 0)
        throw libc.lastError('bind of a socket for packets')
    } catch (error) {
      tap.close()
      throw error
    }
    return tap
  }

  /** Blocks until a packet is there, and no longer than so many milliseconds. */
  wait(timeoutMs: number): void {
    libc.poll(this.#wanted, 1, timeoutMs)
  }

  /** The next IP packet; undefined when none waits. Throws SystemError when the interface is gone. */
  next(): TappedPacket | undefined {
    for (;;) {
      this.#header.writeUInt32LE(SOCKADDR_LL, 8)
      this.#header.writeBigUInt64LE(BigInt(CONTROL), 40)
      const length = libc.recvmsg(this.#fd, this.#header, MSG_TRUNC)
      if (length < 0) {
        const errno = libc.errno()
        if (errno === libc.EAGAIN || errno === libc.EINTR) return undefined
        throw libc.lastError('a packet')
      }
      const protocol = this.#name.readUInt16BE(LL_PROTOCOL)
      if (protocol !== ETH_P_IP && protocol !== ETH_P_IPV6) continue
      return {
        bytes: this.#bytes.subarray(0, Math.min(length, this.#bytes.length)),
        length,
        isOutgoing: this.#name.readUInt8(LL_TYPE) === PACKET_OUTGOING,
        timeNs: this.#readTime(),
      }
    }
  }

  #readTime(): bigint {
    const control = this.#control
    const isTime =
      control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SO_TIMESTAMPNS
    if (!isTime) return 0n
    const seconds = control.readBigInt64LE(CMSGHDR)
    return seconds * 1_000_000_000n + control.readBigInt64LE(CMSGHDR + 8)
  }

  /** Packets that the kernel had no room for, since the tap was opened. */
  get missed(): number {
    // Reading resets the kernel's counter: struct tpacket_stats, packets and drops.
    const counts = Buffer.alloc(8)
    const length = Buffer.from(Uint32Array.of(8).buffer)
    libc.getsockopt(this.#fd, SOL_PACKET, PACKET_STATISTICS, counts, length)
    this.#missed += counts.readUInt32LE(4)
    return this.#missed
  }

  close(): void {
    libc.close(this.#fd)
  }
}
