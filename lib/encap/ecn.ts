import { readUint16, writeUint16 } from './bytes.js'
import { fold } from './checksum.js'
import { CHECKSUM, trafficClassOf, versionOf } from './ip.js'

const ECN = 0x03

/**
 * Brings a congestion mark of the outer header into the packet, as if the router
 * had marked the packet itself (RFC 6040 section 4.2). Returns false for a packet
 * that cannot carry it: its sender would not slow down, so it is to be dropped.
 * The packet is a whole IP packet.
 */
export function carryCongestion(bytes: Uint8Array, start: number): boolean {
  const ecn = trafficClassOf(bytes, start) & ECN
  if (ecn === 0 || ecn === ECN) return ecn !== 0
  if (versionOf(bytes, start) === 6) {
    // The traffic class lies across two bytes.
    bytes[start + 1]! |= ECN << 4
    return true
  }
  bytes[start + 1]! |= ECN
  // RFC 1624: the checksum without the old word and with the new one.
  const sum = (~readUint16(bytes, start + CHECKSUM) & 0xffff) + (ECN - ecn)
  writeUint16(bytes, start + CHECKSUM, ~fold(sum) & 0xffff)
  return true
}
