import * as libc from './libc.js'

// include/linux/socket.h
const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

/** sun_path of struct sockaddr_un, with its closing zero byte. */
export const MAX_SOCKET_PATH = 107

/** A path, or an abstract name written with a leading @ as systemd does. */
function sockaddrUn(path: string): Buffer {
  const name = Buffer.from(path)
  if (name.length > MAX_SOCKET_PATH) {
    throw new RangeError(
      `socket path ${path} is ${name.length} bytes long, more than the ${MAX_SOCKET_PATH} that Linux allows`,
    )
  }
  if (name[0] === 0x40) name[0] = 0
  const family = Buffer.alloc(2)
  family.writeUInt16LE(AF_UNIX)
  // An abstract name has no closing zero: it would be part of the name.
  return Buffer.concat(name[0] === 0 ? [family, name] : [family, name, Buffer.alloc(1)])
}

/**
 * Opens a listening stream socket that only its owner may connect to; closed on
 * exec, accepting without waiting. The caller has removed what was at `path`.
 */
export function listenUnix(path: string): number {
  const address = sockaddrUn(path)
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a Unix socket')
  const mask = process.umask(0o177)
  const bound = libc.bind(fd, address, address.length)
  const error = bound < 0 ? libc.lastError(`bind ${path}`) : undefined
  process.umask(mask)
  if (error === undefined && libc.listen(fd, 8) === 0) return fd
  const failure = error ?? libc.lastError(`listen on ${path}`)
  libc.close(fd)
  throw failure
}

/** A waiting connection, non-blocking, or -1 when there is none. */
export function acceptUnix(fd: number): number {
  return libc.accept4(fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC)
}

/** Sends all bytes at once or returns false: a peer that does not read is not waited for. */
export function sendAll(fd: number, bytes: Uint8Array): boolean {
  return libc.send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL) === bytes.length
}

/** Sends one datagram to a Unix socket, as sd_notify(3) does. Throws SystemError. */
export function sendUnixDatagram(path: string, text: string): void {
  const address = sockaddrUn(path)
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a Unix socket')
  try {
    const bytes = Buffer.from(text)
    const sent =
      libc.connect(fd, address, address.length) === 0
        ? libc.send(fd, bytes, bytes.length, MSG_NOSIGNAL)
        : -1
    if (sent < 0) throw libc.lastError(`notify ${path}`)
  } finally {
    libc.close(fd)
  }
}
