import * as libc from './libc.js'

// include/linux/socket.h
const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x40000000
const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SCM_RIGHTS = 1
const ECONNRESET = 104

// Of a message with descriptors: struct msghdr of 56 bytes, struct iovec of 16, control message.
const CONTROL_LENGTH = 40
const IOVEC = 56
const RIGHTS = 72
const CMSGHDR = 16

/** Connections that wait to be accepted. */
const BACKLOG = 8

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
  if (error === undefined && libc.listen(fd, BACKLOG) === 0) return fd
  const failure = error ?? libc.lastError(`listen on ${path}`)
  libc.close(fd)
  throw failure
}

/**
 * Has `listenerPid` name this process: a listening socket carries the number of
 * the process that called listen(2) last, not of those that inherited it.
 */
export function claimListener(fd: number): void {
  libc.listen(fd, BACKLOG)
}

/** The process that listens at `path`, also when it is stopped or hangs; undefined when none does. */
export function listenerPid(path: string): number | undefined {
  let fd: number
  try {
    fd = connectUnix(path)
  } catch (error) {
    if (error instanceof libc.SystemError) return undefined
    throw error
  }
  // struct ucred: pid, uid, gid.
  const credentials = Buffer.alloc(12)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(credentials.length)
  const known = libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length) === 0
  libc.close(fd)
  return known ? credentials.readInt32LE() : undefined
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
        ? libc.send(fd, bytes, bytes.length, MSG_NOSIGNAL | MSG_DONTWAIT)
        : -1
    if (sent < 0) throw libc.lastError(`notify ${path}`)
  } finally {
    libc.close(fd)
  }
}

/** Connects a stream socket, closed on exec, reading without waiting. Throws SystemError. */
export function connectUnix(path: string): number {
  const address = sockaddrUn(path)
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a Unix socket')
  if (libc.connect(fd, address, address.length) === 0) return fd
  const error = libc.lastError(`connect to ${path}`)
  libc.close(fd)
  throw error
}

/**
 * struct msghdr, its iovec, control message (SCM_RIGHTS) and bytes in one piece of
 * memory, laid out for 64-bit Linux, so that what points at each other lives equally long.
 */
function rightsMessage(size: number, count: number): { message: Buffer; bytes: Buffer } {
  const controlSize = CMSGHDR + 8 * Math.ceil(count / 2)
  const message = Buffer.alloc(RIGHTS + controlSize + size)
  const address = BigInt(libc.addressOf(message))
  message.writeBigUInt64LE(address + BigInt(IOVEC), 16)
  message.writeUInt32LE(1, 24)
  message.writeBigUInt64LE(address + BigInt(RIGHTS), 32)
  message.writeUInt32LE(controlSize, CONTROL_LENGTH)
  message.writeBigUInt64LE(address + BigInt(RIGHTS + controlSize), IOVEC)
  message.writeUInt32LE(size, IOVEC + 8)
  return { message, bytes: message.subarray(RIGHTS + controlSize) }
}

/** Sends bytes and open descriptors of this process with them. Returns false when the peer does not take them. */
export function sendDescriptors(
  fd: number,
  content: Uint8Array,
  descriptors: readonly number[],
): boolean {
  const { message, bytes } = rightsMessage(content.length, descriptors.length)
  bytes.set(content)
  message.writeUInt32LE(CMSGHDR + 4 * descriptors.length, RIGHTS)
  message.writeInt32LE(SOL_SOCKET, RIGHTS + 8)
  message.writeInt32LE(SCM_RIGHTS, RIGHTS + 12)
  for (const [index, descriptor] of descriptors.entries())
    message.writeInt32LE(descriptor, RIGHTS + CMSGHDR + 4 * index)
  return libc.sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL) === content.length
}

/**
 * Takes up to `most` descriptors that have arrived, with the bytes beside them,
 * which are of no interest. They are this process's from then on, closed on exec.
 * Undefined while nothing has arrived.
 *
 * @throws SystemError when the connection has ended.
 */
export function receiveDescriptors(
  fd: number,
  most: number,
): readonly number[] | undefined {
  const { message } = rightsMessage(4096, most)
  const length = libc.recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
  if (length < 0) {
    if (libc.errno() === libc.EAGAIN || libc.errno() === libc.EINTR) return undefined
    throw libc.lastError('receive descriptors')
  }
  if (length === 0) throw new libc.SystemError('receive descriptors', ECONNRESET)
  const isRights =
    message.readUInt32LE(CONTROL_LENGTH) > 0 &&
    message.readInt32LE(RIGHTS + 12) === SCM_RIGHTS
  const count = isRights ? (message.readUInt32LE(RIGHTS) - CMSGHDR) >> 2 : 0
  return Array.from({ length: count }, (_, index) =>
    message.readInt32LE(RIGHTS + CMSGHDR + 4 * index),
  )
}
