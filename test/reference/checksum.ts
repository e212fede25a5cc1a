/**
 * The Internet checksum as RFC 1071 section 1 tells it: one 16-bit word after
 * the other, the carry added back each time.
 */
export function referenceChecksum(bytes: Uint8Array): number {
  const padded = bytes.length % 2 === 0 ? [...bytes] : [...bytes, 0]
  let sum = 0
  while (padded.length > 0) {
    const [high = 0, low = 0] = padded.splice(0, 2)
    sum += high * 256 + low
    if (sum > 0xffff) sum -= 0xffff
  }
  return 0xffff - sum
}
