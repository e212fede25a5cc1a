import { readUint16 } from './bytes.js'

/**
 * IP headers in byte arrays.
 *
 * IPv4 (RFC 791 section 3.1):
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-------+-------+-----------+---+-------------------------------+
 * 0 |Version|  IHL  |   DSCP    |ECN|          Total Length         |
 *   +-------+-------+-----------+---+-----+-------------------------+
 * 4 |         Identification        |Flags|     Fragment Offset     |
 *   +---------------+---------------+-----+-------------------------+
 * 8 |  Time to Live |    Protocol   |        Header Checksum        |
 *   +---------------+---------------+-------------------------------+
 * 12|                         Source Address                        |
 *   +---------------------------------------------------------------+
 * 16|                      Destination Address                      |
 *   +---------------------------------------------------------------+
 *
 * IPv6 (RFC 8200 section 3):
 *
 *   +-------+---------------+---------------------------------------+
 * 0 |Version| Traffic Class |               Flow Label              |
 *   +-------+---------------+-------+---------------+---------------+
 * 4 |         Payload Length        |  Next Header  |   Hop Limit   |
 *   +-------------------------------+---------------+---------------+
 * 8 |                    Source Address, 16 bytes                   |
 * 24|                 Destination Address, 16 bytes                 |
 *   +---------------------------------------------------------------+
 */
export const IPV4_HEADER = 20
export const TOTAL_LENGTH = 2
export const IDENTIFICATION = 4
export const FRAGMENT = 6
export const TTL = 8
export const PROTOCOL = 9
export const CHECKSUM = 10
export const SOURCE = 12
export const DESTINATION = 16

export const IPV6_HEADER = 40
export const PAYLOAD_LENGTH = 4
export const NEXT_HEADER = 6
export const HOP_LIMIT = 7
export const SOURCE6 = 8
export const DESTINATION6 = 24

/** Don't Fragment, in IPv4's fragment word. */
export const DONT_FRAGMENT = 0x4000
/** The bits of the fragment word that say "a piece": More Fragments, and the offset. */
export const FRAGMENT_MASK = 0x3fff
/** The offset alone; zero in a first or only fragment. */
export const FRAGMENT_OFFSET_MASK = 0x1fff

// Protocol numbers (RFC 790, RFC 4443).
export const PROTOCOL_ICMP = 1
export const PROTOCOL_TCP = 6
export const PROTOCOL_UDP = 17
export const PROTOCOL_ICMPV6 = 58

/** IPv4 and IPv6 name themselves in the first four bits. */
export function versionOf(bytes: Uint8Array, start: number): number {
  return bytes[start]! >>> 4
}

/** Bytes of an IPv4 header with its options. */
export function headerLength4(bytes: Uint8Array, start: number): number {
  return (bytes[start]! & 0x0f) << 2
}

/** The byte that holds DSCP and ECN, of either family (RFC 2474, RFC 3168). */
export function trafficClassOf(bytes: Uint8Array, start: number): number {
  return versionOf(bytes, start) === 4
    ? bytes[start + 1]!
    : (readUint16(bytes, start) >>> 4) & 0xff
}
