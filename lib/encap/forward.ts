import { internetChecksum } from './checksum.js'
import { Drop } from './drops.js'
import { type ForwardingTable, Verify } from './forwarding-table.js'
import {
  DESTINATION,
  IPV4_HEADER,
  SOURCE,
  TOTAL_LENGTH,
  readUint16,
  readUint32,
} from './ipv4.js'

/**
 * Decides where a packet that the kernel wrote to the TUN goes. Only reads it:
 * the kernels on both sides count the hop, so flannel's wire format is the
 * packet as it is. An address of another host's subnet is not ours to send from:
 * remotes would drop the packet, or, stock flannel, take it. Returns the next hop's number or the negated drop reason;
 * allocates nothing.
 */
export function routeOutbound(
  slab: Uint8Array,
  start: number,
  length: number,
  table: ForwardingTable,
): number {
  if (length < IPV4_HEADER) return -Drop.tooShort
  if (slab[start]! >>> 4 !== 4) return -Drop.notIpv4
  if (table.isForeign(readUint32(slab, start + SOURCE))) return -Drop.foreignSource
  return table.lookup(readUint32(slab, start + DESTINATION))
}

/**
 * Decides whether a datagram that arrived from `outer` may enter this host: one
 * whole IPv4 packet with a sound header, from the remote that holds its source,
 * to our own subnet. Returns the remote's number (or 0 when sources are not
 * verified) or the negated drop reason; allocates nothing.
 */
export function checkInbound(
  slab: Uint8Array,
  start: number,
  length: number,
  outer: number,
  table: ForwardingTable,
): number {
  if (length < IPV4_HEADER) return -Drop.tooShort
  if (slab[start]! >>> 4 !== 4) return -Drop.notIpv4
  const headerLength = (slab[start]! & 0x0f) << 2
  if (headerLength < IPV4_HEADER || headerLength > length) return -Drop.badHeader
  if (readUint16(slab, start + TOTAL_LENGTH) !== length) return -Drop.badHeader
  if (internetChecksum(slab, start, headerLength) !== 0) return -Drop.badHeader

  const hop = verifySource(readUint32(slab, start + SOURCE), outer, table)
  if (hop < 0) return hop

  const destination = readUint32(slab, start + DESTINATION)
  if ((destination & table.ownMask) >>> 0 !== table.ownSubnet)
    return -Drop.wrongDestination
  return hop
}

function verifySource(source: number, outer: number, table: ForwardingTable): number {
  if (table.verify === Verify.off) return 0
  const hop = table.lookup(source)
  if (hop >= 0 && (table.verify === Verify.inner || table.maySendFrom(hop, outer)))
    return hop
  return table.verify === Verify.inner || table.isKnownSender(outer)
    ? -Drop.wrongSource
    : -Drop.unknownSender
}
