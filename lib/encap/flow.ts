import { equalBytes, readUint16, readUint32 } from './bytes.js'
import {
  DONT_FRAGMENT,
  FRAGMENT,
  FRAGMENT_MASK,
  HOP_LIMIT,
  IDENTIFICATION,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PROTOCOL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  SOURCE,
  SOURCE6,
  TTL,
  versionOf,
} from './ip.js'
import {
  ACK,
  CWR,
  DATA_OFFSET,
  FIN,
  FLAGS,
  PSH,
  RST,
  SYN,
  TCP_HEADER,
  UDP_CHECKSUM,
  UDP_HEADER,
  UDP_LENGTH,
  URG,
} from './transport.js'

/**
 * Which packets belong together. Positions are of whole IP packets with sound
 * headers; `ipLength` is 20 or 40 and tells the family.
 */

/** TCP or UDP behind an IP header of the plain kind and not a fragment; else 0. */
export function flowProtocol(bytes: Uint8Array, start: number, length: number): number {
  const isIpv4 = versionOf(bytes, start) === 4
  if (length < (isIpv4 ? IPV4_HEADER : IPV6_HEADER) + UDP_HEADER) return 0
  if (isIpv4) {
    if (bytes[start] !== 0x45) return 0
    if ((readUint16(bytes, start + FRAGMENT) & FRAGMENT_MASK) !== 0) return 0
  }
  const protocol = bytes[start + (isIpv4 ? PROTOCOL : NEXT_HEADER)]!
  return protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP ? protocol : 0
}

/** A number that packets of one flow share, and few others. */
export function hashFlow(bytes: Uint8Array, start: number, ipLength: number): number {
  // The last word of either address, and the ports, which follow the addresses.
  const ports = readUint32(bytes, start + ipLength)
  const source = readUint32(bytes, start + (ipLength === IPV4_HEADER ? SOURCE : 20))
  const hash = ports ^ source ^ readUint32(bytes, start + ipLength - 4)
  return Math.imul(hash, 0x9e3779b1) >>> 16
}

/** Same addresses, ports and protocol. */
export function isSameFlow(
  bytes: Uint8Array,
  a: number,
  b: number,
  ipLength: number,
): boolean {
  const isIpv4 = ipLength === IPV4_HEADER
  const protocol = isIpv4 ? PROTOCOL : NEXT_HEADER
  const addresses = isIpv4 ? SOURCE : SOURCE6
  return (
    bytes[a] === bytes[b] &&
    bytes[a + protocol] === bytes[b + protocol] &&
    equalBytes(bytes, a + addresses, bytes, b + addresses, ipLength + 4 - addresses)
  )
}

/**
 * Bytes of the transport header of a packet that may be joined with others of its
 * flow; 0 for one that says something of its own: no payload, flags that open or
 * end a connection, CWR, a UDP packet without checksum.
 *
 * @param length of the transport header and payload, at least 8.
 */
export function joinableHeader(
  bytes: Uint8Array,
  transport: number,
  length: number,
  protocol: number,
): number {
  if (protocol === PROTOCOL_UDP) {
    const isWhole = readUint16(bytes, transport + UDP_LENGTH) === length
    const hasChecksum = readUint16(bytes, transport + UDP_CHECKSUM) !== 0
    return isWhole && hasChecksum && length > UDP_HEADER ? UDP_HEADER : 0
  }
  if (length < TCP_HEADER) return 0
  const header = (bytes[transport + DATA_OFFSET]! >>> 4) << 2
  if (header < TCP_HEADER || header >= length) return 0
  const flags = bytes[transport + FLAGS]! & (ACK | SYN | RST | URG | CWR)
  return flags === ACK ? header : 0
}

/** PSH and FIN say that nothing is to be added. */
export function endsRun(bytes: Uint8Array, transport: number, protocol: number): boolean {
  return protocol === PROTOCOL_TCP && (bytes[transport + FLAGS]! & (PSH | FIN)) !== 0
}

/** Whether the IP headers of two packets differ in nothing that a cut would not restore. */
export function isSameIp(
  bytes: Uint8Array,
  head: number,
  start: number,
  ipLength: number,
  distance: number,
): boolean {
  if (ipLength === IPV6_HEADER)
    return (
      readUint32(bytes, head) === readUint32(bytes, start) &&
      bytes[head + HOP_LIMIT] === bytes[start + HOP_LIMIT]
    )
  const fragment = readUint16(bytes, start + FRAGMENT)
  if (bytes[head + 1] !== bytes[start + 1]) return false
  if (bytes[head + TTL] !== bytes[start + TTL]) return false
  if (fragment !== readUint16(bytes, head + FRAGMENT)) return false
  if ((fragment & DONT_FRAGMENT) !== 0) return true
  const id = (readUint16(bytes, head + IDENTIFICATION) + distance) & 0xffff
  return readUint16(bytes, start + IDENTIFICATION) === id
}

/** Whether two TCP headers differ in sequence number, checksum, PSH and FIN alone. */
export function isSameTcp(
  bytes: Uint8Array,
  head: number,
  start: number,
  length: number,
): boolean {
  const flagsDiffer = (bytes[head + FLAGS]! ^ bytes[start + FLAGS]!) & ~(PSH | FIN)
  return (
    flagsDiffer === 0 &&
    // Acknowledgment and data offset; window; urgent pointer and options.
    equalBytes(bytes, head + 8, bytes, start + 8, 5) &&
    equalBytes(bytes, head + 14, bytes, start + 14, 2) &&
    equalBytes(bytes, head + 18, bytes, start + 18, length - 18)
  )
}
