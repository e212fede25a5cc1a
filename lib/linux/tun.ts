import * as libc from './libc.js'

// include/uapi/linux/if_tun.h, include/uapi/asm-generic/fcntl.h
const TUNSETIFF = 0x400454ca
const IFF_TUN = 0x0001
const IFF_NO_PI = 0x1000
const IFF_TUN_EXCL = 0x8000
const O_RDWR = 0o2
const O_NONBLOCK = 0o4000
const O_CLOEXEC = 0o2000000

/** struct ifreq: a name of 16 bytes, then a union of which we use the flags. */
const IFREQ = 40
const IFNAMSIZ = 16

export interface Tun {
  readonly fd: number
  readonly name: string
}

/**
 * Creates a TUN device that carries bare IP packets, and returns its only open
 * descriptor: non-blocking, closed on exec. The device lives as long as a
 * descriptor is open. A device that exists already is never attached to.
 *
 * @param name a name, or a pattern with %d for the first free number.
 * @throws SystemError: ENOENT without /dev/net/tun, EPERM without CAP_NET_ADMIN,
 *   EBUSY when the name is taken.
 */
export function openTun(name: string): Tun {
  if (Buffer.byteLength(name) >= IFNAMSIZ)
    throw new RangeError(`device name ${name} is too long`)
  const fd = libc.open('/dev/net/tun', O_RDWR | O_NONBLOCK | O_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open /dev/net/tun')

  const request = Buffer.alloc(IFREQ)
  request.write(name, 0, 'latin1')
  request.writeUInt16LE(IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL, IFNAMSIZ)
  if (libc.ioctl(fd, TUNSETIFF, request) < 0) {
    const error = libc.lastError(`create TUN device ${name}`)
    libc.close(fd)
    throw error
  }
  return { fd, name: request.toString('latin1', 0, request.indexOf(0)) }
}
