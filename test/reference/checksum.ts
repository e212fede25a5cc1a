/**
 * The Internet checksum as RFC 1071 section 1 tells it: one 16-bit word after
 * the other, the carry added back each time.
 */
export function referenceChecksum(bytes: Uint8Array): number {
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) {
    sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0)
    if (sum > 0xffff) sum -= 0xffff
  }
  return 0xffff - sum
}
