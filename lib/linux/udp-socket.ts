import * as libc from './libc.js'

// include/linux/socket.h, include/uapi/linux/in.h, in6.h, udp.h, include/uapi/asm-generic/socket.h
const AF_INET = 2
const AF_INET6 = 10
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33
const SO_SNDTIMEO = 21
const SO_REUSEPORT = 15
const SO_RXQ_OVFL = 40
const SO_ATTACH_REUSEPORT_CBPF = 51
const IPPROTO_IP = 0
const IP_MTU_DISCOVER = 10
const IP_RECVTOS = 13
const IP_MTU = 14
const IPPROTO_IPV6 = 41
const IPV6_MTU_DISCOVER = 23
const IPV6_MTU = 24
const IPV6_V6ONLY = 26
const IPV6_RECVTCLASS = 66
const PMTUDISC_DONT = 0
const SOL_UDP = 17
const UDP_SEGMENT = 103
const UDP_GRO = 104

/** Bytes of kernel buffer each way. The default of 208 KiB loses packets in every burst. */
const SOCKET_BUFFER = 4 << 20

/** A send that waits longer than this for a stuck interface is given up. */
const SEND_TIMEOUT_MS = 100

/**
 * Opens a UDP socket on one address and port, closed on exec. Receives are meant
 * to pass MSG_DONTWAIT; sends wait for buffer space, but not for long.
 *
 * The outer packets may be fragmented on the way (no DF): an underlay path
 * smaller than we were told must not become a black hole.
 *
 * @param name struct sockaddr_in or sockaddr_in6.
 * @param sharedBy how many sockets of this user are to have the address and port
 *   together: what one source port of one address sends comes to one of them.
 * @throws SystemError: EADDRINUSE, EADDRNOTAVAIL.
 */
export function openUdpSocket(name: Uint8Array, sharedBy = 1): number {
  const family = familyOf(name)
  const fd = libc.socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) throw libc.lastError('open a UDP socket')
  if (family === AF_INET6) setInt(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
  if (sharedBy > 1) setInt(fd, SOL_SOCKET, SO_REUSEPORT, 1)
  if (libc.bind(fd, name, nameLength(family)) < 0) {
    const error = libc.lastError('bind a UDP socket')
    libc.close(fd)
    throw error
  }
  if (sharedBy > 1) spread(fd, family, sharedBy)

  // Best effort: without CAP_NET_ADMIN the buffers stay as the system's limits allow.
  setInt(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
  setInt(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER)
  setInt(fd, SOL_SOCKET, SO_RXQ_OVFL, 1)
  if (family === AF_INET) {
    setInt(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
    setInt(fd, IPPROTO_IP, IP_RECVTOS, 1)
  } else {
    setInt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
    setInt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
  }
  const timeout = Buffer.alloc(16)
  timeout.writeUInt32LE(SEND_TIMEOUT_MS * 1000, 8)
  libc.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, timeout, timeout.length)
  return fd
}

/**
 * Has the kernel choose the socket by the source's address and port. Its own hash
 * would do, but puts consecutive ports, as our senders use, on one socket by chance.
 */
function spread(fd: number, family: number, sockets: number): void {
  // linux/filter.h: loads relative to the network header; linux/bpf_common.h: codes.
  const [word, half, toX, addX, modulo, accept] = [0x20, 0x28, 0x07, 0x0c, 0x94, 0x16]
  const network = 2 ** 32 - 0x100000
  const [address, port] = family === AF_INET ? [12, 20] : [20, 40]
  const program = [
    [word, network + address],
    [toX, 0],
    [half, network + port],
    [addX, 0],
    [modulo, sockets],
    [accept, 0],
  ] as const
  // struct sock_filter: code, two jumps, operand. struct sock_fprog: count, address.
  const instructions = Buffer.alloc(8 * program.length)
  for (const [index, [code, operand]] of program.entries()) {
    instructions.writeUInt16LE(code, index * 8)
    instructions.writeUInt32LE(operand, index * 8 + 4)
  }
  const filter = Buffer.alloc(16)
  filter.writeUInt16LE(program.length)
  filter.writeBigUInt64LE(BigInt(libc.addressOf(instructions)), 8)
  // Without it the kernel's hash chooses.
  libc.setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter, filter.length)
}

/** Lets the kernel hand over runs of datagrams as one message; false before Linux 5.0. */
export function enableUdpGro(fd: number): boolean {
  return setInt(fd, SOL_UDP, UDP_GRO, 1)
}

/** Whether one message can be sent as many datagrams; false before Linux 4.18. */
export function hasUdpSegment(fd: number): boolean {
  return setInt(fd, SOL_UDP, UDP_SEGMENT, 0)
}

/**
 * The longest packet that the kernel would send to an address in one piece now,
 * outer header included: the route's MTU, or less where a router asked for less.
 * 0 when there is no route.
 *
 * @param name struct sockaddr_in or sockaddr_in6.
 */
export function routeMtu(name: Uint8Array): number {
  const family = familyOf(name)
  const fd = libc.socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (fd < 0) return 0
  const value = Buffer.alloc(4)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(4)
  const [level, option] =
    family === AF_INET ? [IPPROTO_IP, IP_MTU] : [IPPROTO_IPV6, IPV6_MTU]
  const found =
    libc.connect(fd, name, nameLength(family)) === 0 &&
    libc.getsockopt(fd, level, option, value, length) === 0
  libc.close(fd)
  return found ? value.readUInt32LE() : 0
}

function familyOf(name: Uint8Array): number {
  return name[0] === AF_INET ? AF_INET : AF_INET6
}

function nameLength(family: number): number {
  return family === AF_INET ? 16 : 28
}

function setInt(fd: number, level: number, option: number, value: number): boolean {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  return libc.setsockopt(fd, level, option, bytes, bytes.length) === 0
}
