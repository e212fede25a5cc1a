import { readUint16 } from './bytes.js'
import { internetChecksum } from './checksum.js'
import { Drop } from './drops.js'
import { type ForwardingTable, Verify } from './forwarding-table.js'
import {
  DESTINATION,
  DESTINATION6,
  IPV4_HEADER,
  IPV6_HEADER,
  PAYLOAD_LENGTH,
  SOURCE,
  SOURCE6,
  TOTAL_LENGTH,
  headerLength4,
  versionOf,
} from './ip.js'

/**
 * Decides where a packet that the kernel wrote to the TUN goes. Only reads it:
 * the kernels on both sides count the hop, so flannel's wire format is the
 * packet as it is. An address of another host's subnet is not ours to send from:
 * remotes would drop the packet, or, stock flannel, take it. Returns the next
 * hop's number or the negated drop reason; allocates nothing.
 */
export function routeOutbound(
  bytes: Uint8Array,
  start: number,
  length: number,
  table: ForwardingTable,
): number {
  const problem = checkHeader(bytes, start, length)
  if (problem !== 0) return -problem
  const version = versionOf(bytes, start)
  const family = table.family(version)
  if (family === undefined) return -Drop.noRoute
  const source = start + (version === 4 ? SOURCE : SOURCE6)
  if (
    table.verify !== Verify.off &&
    family.hops.covers(bytes, source) &&
    !family.own.has(bytes, source)
  )
    return -Drop.foreignSource
  const hop = family.hops.lookup(
    bytes,
    start + (version === 4 ? DESTINATION : DESTINATION6),
  )
  return hop < 0 ? -Drop.noRoute : hop
}

/** A whole IP packet of exactly that many bytes. Returns 0 or the drop reason. */
function checkHeader(bytes: Uint8Array, start: number, length: number): number {
  if (length < IPV4_HEADER) return Drop.tooShort
  const version = versionOf(bytes, start)
  if (version === 4) {
    const header = headerLength4(bytes, start)
    if (header < IPV4_HEADER || header > length) return Drop.badHeader
    return readUint16(bytes, start + TOTAL_LENGTH) === length ? 0 : Drop.badHeader
  }
  if (version !== 6) return Drop.notIp
  if (length < IPV6_HEADER) return Drop.tooShort
  const payload = readUint16(bytes, start + PAYLOAD_LENGTH)
  return payload + IPV6_HEADER === length ? 0 : Drop.badHeader
}

/**
 * Decides whether a datagram that arrived from an outer address may enter this
 * host: one whole IP packet with a sound header, from the remote that holds its
 * source, to our own subnet. Returns the remote's number (or 0 when sources are
 * not verified) or the negated drop reason; allocates nothing.
 *
 * @param outer holds the address, `outerLength` (4 or 16) bytes at `outerStart`.
 */
export function checkInbound(
  bytes: Uint8Array,
  start: number,
  length: number,
  outer: Uint8Array,
  outerStart: number,
  outerLength: number,
  table: ForwardingTable,
): number {
  const problem = checkHeader(bytes, start, length)
  if (problem !== 0) return -problem
  const version = versionOf(bytes, start)
  if (version === 4 && internetChecksum(bytes, start, headerLength4(bytes, start)) !== 0)
    return -Drop.badHeader
  const family = table.family(version)
  if (family === undefined) return -Drop.wrongDestination

  let hop = 0
  if (table.verify !== Verify.off) {
    hop = family.hops.lookup(bytes, start + (version === 4 ? SOURCE : SOURCE6))
    const isHolder =
      hop >= 0 &&
      (table.verify === Verify.inner ||
        table.maySendFrom(hop, outer, outerStart, outerLength))
    if (!isHolder)
      return table.verify === Verify.inner ||
        table.isKnownSender(outer, outerStart, outerLength)
        ? -Drop.wrongSource
        : -Drop.unknownSender
  }
  const destination = start + (version === 4 ? DESTINATION : DESTINATION6)
  return family.own.has(bytes, destination) ? hop : -Drop.wrongDestination
}
