import { internetChecksum } from '../../../lib/encap/checksum.js'
import { DESTINATION, IPV4_HEADER, SOURCE } from '../../../lib/encap/ip.js'
import * as libc from '../../../lib/linux/libc.js'

// include/linux/socket.h, include/uapi/linux/in.h
const AF_INET = 2
const SOCK_RAW = 3
const SOCK_NONBLOCK = 0o4000
const IPPROTO_ICMP = 1
const IPPROTO_IP = 0
const IP_MTU_DISCOVER = 10
const IP_PMTUDISC_DONT = 0
const IP_PMTUDISC_DO = 2
const POLLIN = 0x0001
// include/uapi/asm-generic/socket.h
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
/** Bytes, for the answers that come while we do not run: the kernel's own few hold 277 of them. */
const RECEIVE_BUFFER = 4 << 20

// RFC 792
const ECHO_REPLY = 0
const ECHO_REQUEST = 8
const DESTINATION_UNREACHABLE = 3
const TIME_EXCEEDED = 11
const ICMP_HEADER = 8
/** The longest error that a host sends (RFC 1812 section 4.3.2.3). */
const MAX_ICMP_ERROR = 576
const IDENTIFIER = 4
const SEQUENCE = 6

/** Names of the codes of "destination unreachable" (RFC 792, RFC 1122, RFC 1812). */
const UNREACHABLE: Readonly<Record<number, string>> = {
  0: 'net unreachable',
  1: 'host unreachable',
  3: 'port unreachable',
  4: 'fragmentation needed',
  13: 'prohibited by a filter',
}

export interface EchoAnswer {
  /** The host that the request went to. */
  readonly from: string
  readonly sequence: number
  /** Who refused it and why, when it did not arrive. */
  readonly error?: string
}

/** A raw ICMP socket that sends echo requests and understands what comes back. Needs CAP_NET_RAW. */
export class EchoSocket {
  readonly #fd: number
  readonly #identifier = process.pid & 0xffff
  readonly #request: Buffer
  readonly #packet = Buffer.alloc(65_536)
  readonly #pollfd = Buffer.alloc(8)

  constructor(options: { packetBytes: number; dontFragment: boolean }) {
    this.#fd = libc.socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ICMP)
    if (this.#fd < 0) throw libc.lastError('open a raw ICMP socket')
    const discover = Buffer.alloc(4)
    discover.writeInt32LE(options.dontFragment ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT)
    libc.setsockopt(this.#fd, IPPROTO_IP, IP_MTU_DISCOVER, discover, discover.length)
    const buffer = Buffer.alloc(4)
    buffer.writeInt32LE(RECEIVE_BUFFER)
    libc.setsockopt(this.#fd, SOL_SOCKET, SO_RCVBUFFORCE, buffer, buffer.length)
    this.#request = Buffer.alloc(
      Math.max(options.packetBytes, IPV4_HEADER + ICMP_HEADER) - IPV4_HEADER,
    )
    this.#request[0] = ECHO_REQUEST
    this.#request.writeUInt16BE(this.#identifier, IDENTIFIER)
    this.#pollfd.writeInt32LE(this.#fd, 0)
    this.#pollfd.writeInt16LE(POLLIN, 4)
  }

  /** Returns why the kernel would not send it; undefined when it did. */
  send(target: string, sequence: number): string | undefined {
    const request = this.#request
    request.writeUInt16BE(sequence & 0xffff, SEQUENCE)
    request.writeUInt16BE(0, 2)
    request.writeUInt16BE(internetChecksum(request, 0, request.length), 2)
    const to = socketAddress(target)
    const sent = libc.sendto(this.#fd, request, request.length, 0, to, to.length)
    return sent < 0 ? `not sent: ${libc.lastError('sendto').code}` : undefined
  }

  /** Waits for up to `waitMs` and returns what has arrived for us. */
  receive(waitMs: number): EchoAnswer[] {
    const answers: EchoAnswer[] = []
    libc.poll(this.#pollfd, 1, Math.ceil(waitMs))
    for (;;) {
      const length = libc.read(this.#fd, this.#packet, this.#packet.length)
      if (length < 0) return answers
      const answer = this.#understand(this.#packet.subarray(0, length))
      if (answer !== undefined) answers.push(answer)
    }
  }

  #understand(packet: Buffer): EchoAnswer | undefined {
    const icmp = payload(packet)
    if (icmp === undefined) return undefined
    const type = icmp.readUInt8(0)
    if (type === ECHO_REPLY) return this.#ours(icmp, address(packet, SOURCE))
    if (type !== DESTINATION_UNREACHABLE && type !== TIME_EXCEEDED) return undefined
    // An error quotes the packet that it is about.
    const quoted = icmp.subarray(ICMP_HEADER, MAX_ICMP_ERROR)
    const request = payload(quoted)
    if (request?.readUInt8(0) !== ECHO_REQUEST) return undefined
    const ours = this.#ours(request, address(quoted, DESTINATION))
    const code = icmp.readUInt8(1)
    const why =
      type === TIME_EXCEEDED
        ? 'time exceeded'
        : (UNREACHABLE[code] ?? `unreachable (code ${code})`)
    return ours && { ...ours, error: `${address(packet, SOURCE)}: ${why}` }
  }

  #ours(icmp: Buffer, from: string): EchoAnswer | undefined {
    if (icmp.readUInt16BE(IDENTIFIER) !== this.#identifier) return undefined
    return { from, sequence: icmp.readUInt16BE(SEQUENCE) }
  }
}

/** The ICMP message in an IPv4 packet; undefined when it is cut before its header ends. */
function payload(packet: Buffer): Buffer | undefined {
  if (packet.length < IPV4_HEADER) return undefined
  const icmp = packet.subarray((packet.readUInt8(0) & 0x0f) * 4)
  return icmp.length < ICMP_HEADER ? undefined : icmp
}

function address(packet: Buffer, start: number): string {
  return packet.subarray(start, start + 4).join('.')
}

/** struct sockaddr_in (ip(7)); raw sockets have no port. */
function socketAddress(text: string): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeUInt16LE(AF_INET, 0)
  bytes.set(text.split('.').map(Number), 4)
  return bytes
}
