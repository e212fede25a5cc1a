/**
 * struct virtio_net_hdr, which a TUN device with IFF_VNET_HDR puts before every
 * packet (include/uapi/linux/virtio_net.h): little-endian, 10 bytes.
 *
 *   0 flags  1 gso_type  2 header length  4 gso_size  6 csum_start  8 csum_offset
 *
 * A packet with a gso_type is a *super-packet*: many segments of `gso_size` bytes
 * of payload behind one header. A packet that needs a checksum has the sum of
 * its pseudo-header in the checksum's place.
 */
export const VIRTIO_HEADER = 10

const FLAGS = 0
const GSO_TYPE = 1
const HEADER_LENGTH = 2
const GSO_SIZE = 4
const CHECKSUM_START = 6
const CHECKSUM_OFFSET = 8

const NEEDS_CHECKSUM = 1

export const Gso = { none: 0, tcp4: 1, tcp6: 4, udp: 5 } as const
/** Beside a TCP type: the first segment carries CWR (RFC 3168). */
const GSO_ECN = 0x80

function read16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8)
}

function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
}

/** @param start of the virtio header, as for all functions here. */
export function gsoTypeOf(bytes: Uint8Array, start: number): number {
  return bytes[start + GSO_TYPE]! & ~GSO_ECN
}

export function gsoSizeOf(bytes: Uint8Array, start: number): number {
  return read16(bytes, start + GSO_SIZE)
}

export function needsChecksum(bytes: Uint8Array, start: number): boolean {
  return (bytes[start + FLAGS]! & NEEDS_CHECKSUM) !== 0
}

/** Where the checksum begins to count, from the start of the packet. */
export function checksumStartOf(bytes: Uint8Array, start: number): number {
  return read16(bytes, start + CHECKSUM_START)
}

/** Where the checksum lies, from where it begins to count. */
export function checksumOffsetOf(bytes: Uint8Array, start: number): number {
  return read16(bytes, start + CHECKSUM_OFFSET)
}

/** A packet that is whole as it is. */
export function writePlainVirtio(bytes: Uint8Array, start: number): void {
  bytes.fill(0, start, start + VIRTIO_HEADER)
}

/**
 * A super-packet.
 *
 * @param headerLength of IP and transport header together.
 * @param transport where the transport header begins, from the start of the packet.
 * @param checksum where its checksum lies, from there.
 */
export function writeSuperVirtio(
  bytes: Uint8Array,
  start: number,
  type: number,
  headerLength: number,
  gsoSize: number,
  transport: number,
  checksum: number,
): void {
  bytes[start + FLAGS] = NEEDS_CHECKSUM
  bytes[start + GSO_TYPE] = type
  write16(bytes, start + HEADER_LENGTH, headerLength)
  write16(bytes, start + GSO_SIZE, gsoSize)
  write16(bytes, start + CHECKSUM_START, transport)
  write16(bytes, start + CHECKSUM_OFFSET, checksum)
}
