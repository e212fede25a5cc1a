import { readUint16, readUint32, writeUint16, writeUint32 } from './bytes.js'
import { fold, internetChecksum, sumPseudoHeader, sumWords } from './checksum.js'
import {
  CHECKSUM,
  DESTINATION,
  DESTINATION6,
  FRAGMENT,
  FRAGMENT_OFFSET_MASK,
  HOP_LIMIT,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PAYLOAD_LENGTH,
  PROTOCOL,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  SOURCE,
  SOURCE6,
  TOTAL_LENGTH,
  TTL,
  headerLength4,
  versionOf,
} from './ip.js'

/** What a sender is told. */
export const IcmpError = { netUnreachable: 0, tooBig: 1, hostUnreachable: 2 } as const
export type IcmpErrorKind = (typeof IcmpError)[keyof typeof IcmpError]

/**
 * Type and code by kind: RFC 792 and RFC 1191 (destination unreachable: net,
 * fragmentation needed, host), RFC 4443 (no route to destination, packet too big,
 * address unreachable).
 */
const MEANING4 = [0x0300, 0x0304, 0x0301] as const
const MEANING6 = [0x0100, 0x0200, 0x0103] as const

/** Bytes of an ICMP error before the packet that it quotes. */
const ICMP_HEADER = 8

/** As much of the packet as fits is quoted: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4. */
const MAX_ERROR4 = 576
export const MAX_ICMP_ERROR = 1280

const ECHO_REPLY = 0
const ECHO_REQUEST = 8
/** ICMPv6 messages below this are errors (RFC 4443 section 2.1). */
const FIRST_INFORMATIONAL6 = 128
const FRAGMENT_HEADER6 = 44

/**
 * True when an ICMP error may be sent about the packet: never about an ICMP
 * error, a later fragment, or a packet from or to an address that is not one
 * host's (RFC 1122 section 3.2.2, RFC 4443 section 2.4). The packet is a whole
 * IP packet.
 */
export function mayAnswerWithError(
  bytes: Uint8Array,
  start: number,
  length: number,
): boolean {
  return versionOf(bytes, start) === 4
    ? mayAnswer4(bytes, start, length)
    : mayAnswer6(bytes, start, length)
}

function mayAnswer4(bytes: Uint8Array, start: number, length: number): boolean {
  if ((readUint16(bytes, start + FRAGMENT) & FRAGMENT_OFFSET_MASK) !== 0) return false
  if (!isOneHost4(readUint32(bytes, start + SOURCE))) return false
  if (!isOneHost4(readUint32(bytes, start + DESTINATION))) return false
  if (bytes[start + PROTOCOL] !== PROTOCOL_ICMP) return true
  const icmp = headerLength4(bytes, start)
  if (length <= icmp) return false
  const type = bytes[start + icmp]
  return type === ECHO_REPLY || type === ECHO_REQUEST
}

/** Neither 0.0.0.0/8, loopback, multicast nor broadcast. */
function isOneHost4(address: number): boolean {
  const first = address >>> 24
  return first !== 0 && first !== 127 && first < 224
}

/** Extension headers that could hide an ICMP error or a fragment are not gone through: no answer. */
function mayAnswer6(bytes: Uint8Array, start: number, length: number): boolean {
  if (!isOneHost6(bytes, start + SOURCE6)) return false
  if (!isOneHost6(bytes, start + DESTINATION6)) return false
  const next = bytes[start + NEXT_HEADER]!
  if (next === 0 || next === 43 || next === FRAGMENT_HEADER6 || next === 60) return false
  if (next !== PROTOCOL_ICMPV6) return true
  return length > IPV6_HEADER && bytes[start + IPV6_HEADER]! >= FIRST_INFORMATIONAL6
}

/** Neither multicast nor the unspecified address. */
function isOneHost6(bytes: Uint8Array, at: number): boolean {
  if (bytes[at] === 0xff) return false
  return (
    (readUint32(bytes, at) |
      readUint32(bytes, at + 4) |
      readUint32(bytes, at + 8) |
      readUint32(bytes, at + 12)) !==
    0
  )
}

/**
 * Writes the ICMP error about a packet, IP header included, to `at` and returns
 * its length. The caller has checked mayAnswerWithError and that MAX_ICMP_ERROR
 * bytes are there.
 *
 * @param from the address that the error comes from, of the packet's family.
 * @param mtu for tooBig: the longest packet that would pass.
 */
export function writeIcmpError(
  bytes: Uint8Array,
  at: number,
  from: Uint8Array,
  kind: IcmpErrorKind,
  mtu: number,
  start: number,
  length: number,
): number {
  const isIpv4 = versionOf(bytes, start) === 4
  const ipLength = isIpv4 ? IPV4_HEADER : IPV6_HEADER
  const room = (isIpv4 ? MAX_ERROR4 : MAX_ICMP_ERROR) - ipLength - ICMP_HEADER
  const quoted = Math.min(length, room)
  const payload = ICMP_HEADER + quoted
  const icmp = at + ipLength
  bytes.fill(0, at, icmp + ICMP_HEADER)
  if (isIpv4) writeHeader4(bytes, at, from, start, payload)
  else writeHeader6(bytes, at, from, start, payload)

  writeUint16(bytes, icmp, (isIpv4 ? MEANING4 : MEANING6)[kind])
  // 16 bits of it in ICMP (RFC 1191), behind 16 that are zero.
  if (kind === IcmpError.tooBig) writeUint32(bytes, icmp + 4, mtu)
  bytes.copyWithin(icmp + ICMP_HEADER, start, start + quoted)
  const pseudo = isIpv4 ? 0 : sumPseudoHeader(bytes, at, 6, PROTOCOL_ICMPV6, payload)
  const sum = fold(pseudo + sumWords(bytes, icmp, payload))
  writeUint16(bytes, icmp + 2, ~sum & 0xffff)
  return ipLength + payload
}

/** The header of an answer to the packet at `start`; its place is filled with zeros. */
function writeHeader4(
  bytes: Uint8Array,
  at: number,
  from: Uint8Array,
  start: number,
  payload: number,
): void {
  bytes[at] = 0x45
  bytes[at + 1] = 0xc0 // internetwork control (RFC 1812 section 4.3.2.5)
  writeUint16(bytes, at + TOTAL_LENGTH, IPV4_HEADER + payload)
  bytes[at + TTL] = 64
  bytes[at + PROTOCOL] = PROTOCOL_ICMP
  bytes.set(from, at + SOURCE)
  bytes.copyWithin(at + DESTINATION, start + SOURCE, start + SOURCE + 4)
  writeUint16(bytes, at + CHECKSUM, internetChecksum(bytes, at, IPV4_HEADER))
}

function writeHeader6(
  bytes: Uint8Array,
  at: number,
  from: Uint8Array,
  start: number,
  payload: number,
): void {
  bytes[at] = 0x60
  writeUint16(bytes, at + PAYLOAD_LENGTH, payload)
  bytes[at + NEXT_HEADER] = PROTOCOL_ICMPV6
  bytes[at + HOP_LIMIT] = 64
  bytes.set(from, at + SOURCE6)
  bytes.copyWithin(at + DESTINATION6, start + SOURCE6, start + SOURCE6 + 16)
}

/**
 * Lets through `rate` events a second with bursts of `burst`, as RFC 1812
 * section 4.3.2.8 asks for ICMP errors.
 */
export class TokenBucket {
  readonly #rate: number
  readonly #burst: number
  #tokens: number
  #filledAt = 0

  constructor(rate: number, burst: number) {
    this.#rate = rate
    this.#burst = burst
    this.#tokens = burst
  }

  /** @param now milliseconds of any steady clock. */
  take(now: number): boolean {
    const earned = ((now - this.#filledAt) / 1000) * this.#rate
    this.#tokens = Math.min(this.#burst, this.#tokens + Math.max(0, earned))
    this.#filledAt = now
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }
}
