import { readUint16 } from '../encap/bytes.js'
import {
  DESTINATION,
  DESTINATION6,
  FRAGMENT,
  FRAGMENT_OFFSET_MASK,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PROTOCOL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  SOURCE,
  SOURCE6,
  headerLength4,
  versionOf,
} from '../encap/ip.js'
import { type Prefix, addressFromBytes, containsAddress } from '../subnet/prefix.js'

/** Which packets are wanted; of what is not given, all. */
export interface PacketMatch {
  /** One of the two addresses is in it. */
  readonly range?: Prefix | undefined
  /** By their numbers in the IP header: any of them. */
  readonly protocols?: ReadonlySet<number> | undefined
  /** Of TCP or UDP: one of the two ports is among them. */
  readonly ports?: ReadonlySet<number> | undefined
}

/** Whether an IP packet, which may be cut or nonsense, is wanted. */
export function matchesPacket(bytes: Uint8Array, match: PacketMatch): boolean {
  const isIpv4 = versionOf(bytes, 0) === 4
  if (bytes.length < (isIpv4 ? IPV4_HEADER : IPV6_HEADER)) return false
  const { range, protocols, ports } = match
  const protocol = bytes[isIpv4 ? PROTOCOL : NEXT_HEADER] ?? 0
  if (protocols !== undefined && !protocols.has(protocol)) return false
  if (range !== undefined) {
    const size = isIpv4 ? 4 : 16
    const isIn = (at: number): boolean =>
      containsAddress(range, addressFromBytes(bytes.subarray(at, at + size)))
    if (!isIn(isIpv4 ? SOURCE : SOURCE6) && !isIn(isIpv4 ? DESTINATION : DESTINATION6))
      return false
  }
  return (
    ports === undefined || portsOf(bytes, isIpv4, protocol).some(each => ports.has(each))
  )
}

/** Source and destination; none where the packet has no ports, as a fragment that is not the first. */
function portsOf(bytes: Uint8Array, isIpv4: boolean, protocol: number): number[] {
  if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return []
  if (isIpv4 && (readUint16(bytes, FRAGMENT) & FRAGMENT_OFFSET_MASK) !== 0) return []
  const at = isIpv4 ? headerLength4(bytes, 0) : IPV6_HEADER
  if (bytes.length < at + 4) return []
  return [readUint16(bytes, at), readUint16(bytes, at + 2)]
}
