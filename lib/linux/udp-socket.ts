import * as libc from './libc.js'

// include/linux/socket.h, include/uapi/linux/in.h, include/uapi/asm-generic/socket.h
const AF_INET = 2
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33
const SO_SNDTIMEO = 21
const IPPROTO_IP = 0
const IP_MTU_DISCOVER = 10
const IP_PMTUDISC_DONT = 0

/** struct sockaddr_in */
const SOCKADDR_IN = 16

/** Bytes of kernel buffer each way. The default of 208 KiB loses packets in every burst. */
const SOCKET_BUFFER = 4 << 20

/** A send that waits longer than this for a stuck interface is given up. */
const SEND_TIMEOUT_MS = 100

/**
 * Opens a UDP/IPv4 socket on one address and port, closed on exec. Receives are
 * meant to pass MSG_DONTWAIT; sends wait for buffer space, but not for long.
 *
 * The outer packets may be fragmented on the way (no DF): an underlay path
 * smaller than we were told must not become a black hole.
 *
 * @param address dotted quad.
 * @throws SystemError: EADDRINUSE, EADDRNOTAVAIL.
 */
export function openUdpSocket(address: string, port: number): number {
  const fd = libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a UDP socket')

  const name = Buffer.alloc(SOCKADDR_IN)
  name.writeUInt16LE(AF_INET, 0)
  name.writeUInt16BE(port, 2)
  name.set(address.split('.').map(Number), 4)
  if (libc.bind(fd, name, SOCKADDR_IN) < 0) {
    const error = libc.lastError(`bind UDP ${address}:${port}`)
    libc.close(fd)
    throw error
  }

  // Best effort: without CAP_NET_ADMIN the buffers stay as the system's limits allow.
  setInt(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
  setInt(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER)
  setInt(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
  const timeout = Buffer.alloc(16)
  timeout.writeUInt32LE(SEND_TIMEOUT_MS * 1000, 8)
  libc.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, timeout, timeout.length)
  return fd
}

function setInt(fd: number, level: number, option: number, value: number): void {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  libc.setsockopt(fd, level, option, bytes, bytes.length)
}
