/**
 * The Internet checksum (RFC 1071): the complemented one's-complement sum of the
 * big-endian 16-bit words, an odd last byte padded with zero. Over a header that
 * contains its own correct checksum the result is 0.
 *
 * Allocates nothing. `length` is at most 65,535, so the plain sum stays below
 * 2^31 and is folded once at the end.
 */
export function internetChecksum(
  bytes: Uint8Array,
  start: number,
  length: number,
): number {
  const end = start + length
  let sum = 0
  let at = start
  for (; at + 1 < end; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!
  if (at < end) sum += bytes[at]! << 8
  sum = (sum & 0xffff) + (sum >>> 16)
  sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}
