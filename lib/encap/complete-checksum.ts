import { writeUint16 } from './bytes.js'
import { IPV6_HEADER, headerLength4, versionOf } from './ip.js'
import type { PacketMemory } from './packet-memory.js'
import { UDP_CHECKSUM } from './transport.js'
import { VIRTIO_HEADER, checksumOffsetOf, checksumStartOf } from './virtio.js'

/**
 * Finishes the checksum that the kernel left to us, in place. The field holds
 * the sum of the pseudo-header. Returns false when the virtio header points
 * outside the payload of IP.
 *
 * @param start of a whole IP packet; the virtio header lies before it.
 */
export function completeChecksum(
  { bytes, sum }: PacketMemory,
  start: number,
  length: number,
): boolean {
  const from = checksumStartOf(bytes, start - VIRTIO_HEADER)
  const offset = checksumOffsetOf(bytes, start - VIRTIO_HEADER)
  const ipLength =
    versionOf(bytes, start) === 4 ? headerLength4(bytes, start) : IPV6_HEADER
  // A container's raw socket may have asked for it anywhere.
  if (from < ipLength || from + offset + 2 > length) return false
  const field = start + from + offset
  const checksum = ~sum(start + from, length - from) & 0xffff
  // Only UDP has its checksum there, and 0 would mean that it has none (RFC 768).
  writeUint16(bytes, field, checksum === 0 && offset === UDP_CHECKSUM ? 0xffff : checksum)
  return true
}
