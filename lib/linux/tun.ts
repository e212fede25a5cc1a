import * as libc from './libc.js'

// include/uapi/linux/if_tun.h, include/uapi/asm-generic/fcntl.h
const TUNSETIFF = 0x400454ca
const TUNGETIFF = 0x800454d2
const TUNSETOFFLOAD = 0x400454d0
const TUNSETVNETHDRSZ = 0x400454d8
const IFF_TUN = 0x0001
const IFF_MULTI_QUEUE = 0x0100
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
const IFF_TUN_EXCL = 0x8000
const O_RDWR = 0o2
const O_NONBLOCK = 0o4000
const O_CLOEXEC = 0o2000000

// What the device may leave to its reader, and take from its writer.
const TUN_F_CSUM = 0x01
const TUN_F_TSO4 = 0x02
const TUN_F_TSO6 = 0x04
const TUN_F_TSO_ECN = 0x08
const TUN_F_USO4 = 0x20
const TUN_F_USO6 = 0x40
const TCP = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
const UDP = TUN_F_USO4 | TUN_F_USO6

/** struct virtio_net_hdr without what later versions added. */
const VNET_HEADER = 10

/** struct ifreq: a name of 16 bytes, then a union of which we use the flags. */
const IFREQ = 40
const IFNAMSIZ = 16

export interface Tun {
  readonly fd: number
  readonly name: string
}

export interface TunOptions {
  /** More queues than one; a device that was made without them never has them. */
  readonly hasQueues?: boolean
  /** Another queue of a device of ours that exists. */
  readonly isFurther?: boolean
}

/**
 * Creates a TUN device that carries IP packets behind a struct virtio_net_hdr,
 * and returns the descriptor of its first queue: non-blocking, closed on exec.
 * The device lives as long as a descriptor is open. A device that exists already
 * is only attached to for a further queue.
 *
 * @param name a name, or a pattern with %d for the first free number.
 * @throws SystemError: ENOENT without /dev/net/tun, EPERM without CAP_NET_ADMIN,
 *   EBUSY when the name is taken.
 */
export function openTun(name: string, options: TunOptions = {}): Tun {
  if (Buffer.byteLength(name) >= IFNAMSIZ)
    throw new RangeError(`device name ${name} is too long`)
  const fd = libc.open('/dev/net/tun', O_RDWR | O_NONBLOCK | O_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open /dev/net/tun')

  const request = Buffer.alloc(IFREQ)
  request.write(name, 0, 'latin1')
  const { hasQueues = false, isFurther = false } = options
  const flags =
    IFF_TUN |
    IFF_NO_PI |
    IFF_VNET_HDR |
    (hasQueues ? IFF_MULTI_QUEUE : 0) |
    (isFurther ? 0 : IFF_TUN_EXCL)
  request.writeUInt16LE(flags, IFNAMSIZ)
  const size = Buffer.alloc(4)
  size.writeInt32LE(VNET_HEADER)
  if (
    libc.ioctl(fd, TUNSETIFF, request) < 0 ||
    libc.ioctl(fd, TUNSETVNETHDRSZ, size) < 0
  ) {
    const error = libc.lastError(`create TUN device ${name}`)
    libc.close(fd)
    throw error
  }
  return { fd, name: request.toString('latin1', 0, request.indexOf(0)) }
}

/** Super-packets that a device hands over and takes. */
export interface TunOffloads {
  readonly tcp: boolean
  readonly udp: boolean
}

/**
 * Asks the device for super-packets of all kinds that the kernel has: those of
 * UDP since Linux 6.2.
 */
export function enableOffloads(fd: number): TunOffloads {
  for (const [flags, tcp, udp] of [
    [TCP | UDP, true, true],
    [TCP, true, false],
    [0, false, false],
  ] as const)
    // The argument is the number itself.
    if (libc.ioctl(fd, TUNSETOFFLOAD, flags) === 0) return { tcp, udp }
  return { tcp: false, udp: false }
}

/** Whether the device of a descriptor is still there: anybody may delete it. */
export function isAttached(fd: number): boolean {
  return libc.ioctl(fd, TUNGETIFF, Buffer.alloc(IFREQ)) >= 0
}
