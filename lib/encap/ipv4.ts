/**
 * IPv4 headers in byte arrays (RFC 791 section 3.1).
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-------+-------+---------------+-------------------------------+
 * 0 |Version|  IHL  |Type of Service|          Total Length         |
 *   +-------+-------+---------------+-----+-------------------------+
 * 4 |         Identification        |Flags|     Fragment Offset     |
 *   +---------------+---------------+-----+-------------------------+
 * 8 |  Time to Live |    Protocol   |        Header Checksum        |
 *   +---------------+---------------+-------------------------------+
 * 12|                         Source Address                        |
 *   +---------------------------------------------------------------+
 * 16|                      Destination Address                      |
 *   +---------------------------------------------------------------+
 */
export const IPV4_HEADER = 20
export const TOTAL_LENGTH = 2
export const FRAGMENT = 6
export const TTL = 8
export const PROTOCOL = 9
export const CHECKSUM = 10
export const SOURCE = 12
export const DESTINATION = 16

/** The bits of the fragment word that hold the offset; zero in a first or only fragment. */
export const FRAGMENT_OFFSET_MASK = 0x1fff

/** Protocol number of ICMP (RFC 792). */
export const PROTOCOL_ICMP = 1

export function readUint16(bytes: Uint8Array, start: number): number {
  return (bytes[start]! << 8) | bytes[start + 1]!
}

export function writeUint16(bytes: Uint8Array, start: number, value: number): void {
  bytes[start] = value >>> 8
  bytes[start + 1] = value
}

/** Reads four bytes in network order as an unsigned number. */
export function readUint32(bytes: Uint8Array, start: number): number {
  return (
    ((bytes[start]! << 24) |
      (bytes[start + 1]! << 16) |
      (bytes[start + 2]! << 8) |
      bytes[start + 3]!) >>>
    0
  )
}

export function writeUint32(bytes: Uint8Array, start: number, value: number): void {
  bytes[start] = value >>> 24
  bytes[start + 1] = value >>> 16
  bytes[start + 2] = value >>> 8
  bytes[start + 3] = value
}
