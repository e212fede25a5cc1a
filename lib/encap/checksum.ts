import { PROTOCOL_TCP, SOURCE, SOURCE6 } from './ip.js'

/**
 * The Internet checksum (RFC 1071) is the complement of a one's-complement sum
 * of big-endian 16-bit words. Sums can be added, and a zero word more or less
 * changes nothing. Here a *sum* is always folded to 16 bits.
 */

/** Brings a sum of sums, below 2^32, back to 16 bits. */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16)
  return (once & 0xffff) + (once >>> 16)
}

/**
 * The sum of `length` bytes, an odd last one padded with zero. Allocates nothing.
 *
 * @param length at most 65,535, so that the plain sum stays below 2^31.
 */
export function sumWords(bytes: Uint8Array, start: number, length: number): number {
  const end = start + length
  let sum = 0
  let at = start
  for (; at + 1 < end; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!
  if (at < end) sum += bytes[at]! << 8
  return fold(sum)
}

/** Over a header that contains its own correct checksum the result is 0. */
export function internetChecksum(
  bytes: Uint8Array,
  start: number,
  length: number,
): number {
  return ~sumWords(bytes, start, length) & 0xffff
}

/**
 * The sum of the pseudo-header that a transport checksum covers besides the
 * segment (RFC 9293 section 3.1, RFC 8200 section 8.1).
 *
 * @param start of the IP header.
 * @param length of the transport header and payload.
 */
export function sumPseudoHeader(
  bytes: Uint8Array,
  start: number,
  version: number,
  protocol: number,
  length: number,
): number {
  const addresses =
    version === 4
      ? sumWords(bytes, start + SOURCE, 8)
      : sumWords(bytes, start + SOURCE6, 32)
  return fold(addresses + protocol + length)
}

/** A checksum from the sum of all that it covers. UDP has no checksum 0: there it means "none" (RFC 768). */
export function checksumOf(sum: number, protocol: number): number {
  const checksum = ~sum & 0xffff
  return checksum === 0 && protocol !== PROTOCOL_TCP ? 0xffff : checksum
}
