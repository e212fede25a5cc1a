import { internetChecksum } from './checksum.js'
import {
  CHECKSUM,
  DESTINATION,
  FRAGMENT,
  FRAGMENT_OFFSET_MASK,
  IPV4_HEADER,
  PROTOCOL,
  PROTOCOL_ICMP,
  SOURCE,
  TOTAL_LENGTH,
  TTL,
  readUint16,
  readUint32,
  writeUint16,
  writeUint32,
} from './ipv4.js'

/** Bytes of an ICMP error before the packet that it quotes (RFC 792). */
const ICMP_HEADER = 8

/** RFC 1812 section 4.3.2.3 asks for as much of the packet as fits in 576 bytes. */
export const MAX_ICMP_ERROR = 576

/** Destination unreachable (RFC 792). */
export const DESTINATION_UNREACHABLE = 3
export const NET_UNREACHABLE = 0

const ECHO_REPLY = 0
const ECHO_REQUEST = 8

/**
 * True when an ICMP error may be sent about the packet: never about an ICMP
 * error, a later fragment, or a packet from or to an address that is not one
 * host's (RFC 1122 section 3.2.2). The caller has checked that 20 bytes follow `start`.
 */
export function mayAnswerWithError(
  slab: Uint8Array,
  start: number,
  length: number,
): boolean {
  if ((readUint16(slab, start + FRAGMENT) & FRAGMENT_OFFSET_MASK) !== 0) return false
  if (!isOneHost(readUint32(slab, start + SOURCE))) return false
  if (!isOneHost(readUint32(slab, start + DESTINATION))) return false
  if (slab[start + PROTOCOL] !== PROTOCOL_ICMP) return true
  const icmpStart = (slab[start]! & 0x0f) << 2
  if (length <= icmpStart) return false
  const type = slab[start + icmpStart]
  return type === ECHO_REPLY || type === ECHO_REQUEST
}

/** Neither 0.0.0.0/8, loopback, multicast nor broadcast. */
function isOneHost(address: number): boolean {
  const first = address >>> 24
  return first !== 0 && first !== 127 && first < 224
}

/**
 * Writes the ICMP error about a packet, IP header included, to the start of
 * `out` and returns its length. The caller has checked mayAnswerWithError and
 * that `out` holds MAX_ICMP_ERROR bytes.
 *
 * @param from the address that the error comes from, unsigned 32 bits.
 */
export function writeIcmpError(
  out: Uint8Array,
  from: number,
  type: number,
  code: number,
  slab: Uint8Array,
  start: number,
  length: number,
): number {
  const quoted = Math.min(length, MAX_ICMP_ERROR - IPV4_HEADER - ICMP_HEADER)
  const total = IPV4_HEADER + ICMP_HEADER + quoted

  out.fill(0, 0, IPV4_HEADER + ICMP_HEADER)
  out[0] = 0x45
  out[1] = 0xc0 // internetwork control (RFC 1812 section 4.3.2.5)
  writeUint16(out, TOTAL_LENGTH, total)
  out[TTL] = 64
  out[PROTOCOL] = PROTOCOL_ICMP
  writeUint32(out, SOURCE, from)
  writeUint32(out, DESTINATION, readUint32(slab, start + SOURCE))
  writeUint16(out, CHECKSUM, internetChecksum(out, 0, IPV4_HEADER))

  out[IPV4_HEADER] = type
  out[IPV4_HEADER + 1] = code
  out.set(slab.subarray(start, start + quoted), IPV4_HEADER + ICMP_HEADER)
  writeUint16(
    out,
    IPV4_HEADER + 2,
    internetChecksum(out, IPV4_HEADER, ICMP_HEADER + quoted),
  )
  return total
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
