import { referenceChecksum } from '../reference/checksum.js'

/** The fields of an IPv4 packet that tests choose; the rest is sound. */
export interface PacketFields {
  readonly source: string
  readonly destination: string
  readonly payload?: Uint8Array
  readonly protocol?: number
  /** Flags and fragment offset, as in the header. */
  readonly fragment?: number
  /** Option bytes, a multiple of four. */
  readonly options?: Uint8Array
}

/** A whole IPv4 packet with a right checksum. */
export function ipv4Packet(fields: PacketFields): Uint8Array {
  const { source, destination, protocol = 17, fragment = 0 } = fields
  const { payload = new Uint8Array(0), options = new Uint8Array(0) } = fields
  const headerLength = 20 + options.length
  const packet = Buffer.alloc(headerLength + payload.length)
  packet[0] = 0x40 | (headerLength / 4)
  packet.writeUInt16BE(packet.length, 2)
  packet.writeUInt16BE(fragment, 6)
  packet[8] = 64
  packet[9] = protocol
  packet.writeUInt32BE(ip(source), 12)
  packet.writeUInt32BE(ip(destination), 16)
  packet.set(options, 20)
  packet.set(payload, headerLength)
  resum(packet)
  return packet
}

/** Puts the right header checksum into a packet that was changed. */
export function resum(packet: Uint8Array): void {
  const headerLength = (packet[0]! & 0x0f) * 4
  packet[10] = 0
  packet[11] = 0
  const sum = referenceChecksum(packet.subarray(0, headerLength))
  packet[10] = sum >>> 8
  packet[11] = sum & 0xff
}

/** A dotted quad as an unsigned number. */
export function ip(text: string): number {
  return text.split('.').reduce((value, part) => value * 256 + Number(part), 0)
}
