import { addressBytes, parseAddress, parsePrefix } from '../../lib/subnet/prefix.js'
import type { Range } from '../../lib/encap/subnet-index.js'
import { referenceChecksum } from '../reference/checksum.js'

/** The fields of a packet of either family that tests choose; the rest is sound. */
export interface PacketFields {
  readonly source: string
  readonly destination: string
  readonly payload?: Uint8Array
  readonly protocol?: number
  /** IPv4: flags and fragment offset, as in the header. */
  readonly fragment?: number
  /** IPv4: option bytes, a multiple of four. */
  readonly options?: Uint8Array
  readonly trafficClass?: number
  readonly ttl?: number
  /** IPv4. */
  readonly id?: number
}

/** A whole IP packet, IPv4 with a right checksum. */
export function ipPacket(fields: PacketFields): Buffer {
  return fields.source.includes(':') ? ipv6Packet(fields) : ipv4Packet(fields)
}

export function ipv4Packet(fields: PacketFields): Buffer {
  const { source, destination, protocol = 17, fragment = 0, id = 0 } = fields
  const { payload = new Uint8Array(0), options = new Uint8Array(0) } = fields
  const headerLength = 20 + options.length
  const packet = Buffer.alloc(headerLength + payload.length)
  packet[0] = 0x40 | (headerLength / 4)
  packet[1] = fields.trafficClass ?? 0
  packet.writeUInt16BE(packet.length, 2)
  packet.writeUInt16BE(id, 4)
  packet.writeUInt16BE(fragment, 6)
  packet[8] = fields.ttl ?? 64
  packet[9] = protocol
  packet.set(ip(source), 12)
  packet.set(ip(destination), 16)
  packet.set(options, 20)
  packet.set(payload, headerLength)
  resum(packet)
  return packet
}

export function ipv6Packet(fields: PacketFields): Buffer {
  const { source, destination, protocol = 17, payload = new Uint8Array(0) } = fields
  const packet = Buffer.alloc(40 + payload.length)
  packet.writeUInt32BE(0x6000_0000 + (fields.trafficClass ?? 0) * 2 ** 20)
  packet.writeUInt16BE(payload.length, 4)
  packet[6] = protocol
  packet[7] = fields.ttl ?? 64
  packet.set(ip(source), 8)
  packet.set(ip(destination), 24)
  packet.set(payload, 40)
  return packet
}

export interface TcpFields extends Omit<PacketFields, 'payload' | 'protocol'> {
  readonly ports?: readonly [number, number]
  readonly sequence?: number
  readonly acknowledgment?: number
  readonly flags?: number
  readonly window?: number
  /** Option bytes of TCP, a multiple of four. */
  readonly tcpOptions?: Uint8Array
  readonly data?: Uint8Array
}

/** A whole TCP packet with right checksums. */
export function tcpPacket(fields: TcpFields): Buffer {
  const { ports = [5000, 80], data = new Uint8Array(0) } = fields
  const options = fields.tcpOptions ?? new Uint8Array(0)
  const segment = Buffer.alloc(20 + options.length + data.length)
  segment.writeUInt16BE(ports[0], 0)
  segment.writeUInt16BE(ports[1], 2)
  segment.writeUInt32BE((fields.sequence ?? 0) >>> 0, 4)
  segment.writeUInt32BE((fields.acknowledgment ?? 0) >>> 0, 8)
  segment[12] = ((20 + options.length) / 4) << 4
  segment[13] = fields.flags ?? 0x10
  segment.writeUInt16BE(fields.window ?? 512, 14)
  segment.set(options, 20)
  segment.set(data, 20 + options.length)
  return resumTransport(ipPacket({ ...fields, protocol: 6, payload: segment }))
}

export interface UdpFields extends Omit<PacketFields, 'payload' | 'protocol'> {
  readonly ports?: readonly [number, number]
  readonly data?: Uint8Array
}

/** A whole UDP packet with right checksums. */
export function udpPacket(fields: UdpFields): Buffer {
  const { ports = [5000, 53], data = new Uint8Array(0) } = fields
  const datagram = Buffer.alloc(8 + data.length)
  datagram.writeUInt16BE(ports[0], 0)
  datagram.writeUInt16BE(ports[1], 2)
  datagram.writeUInt16BE(datagram.length, 4)
  datagram.set(data, 8)
  return resumTransport(ipPacket({ ...fields, protocol: 17, payload: datagram }))
}

/** Puts the right IPv4 header checksum into a packet that was changed. */
export function resum(packet: Uint8Array): void {
  const headerLength = (packet[0]! & 0x0f) * 4
  packet[10] = 0
  packet[11] = 0
  const sum = referenceChecksum(packet.subarray(0, headerLength))
  packet[10] = sum >>> 8
  packet[11] = sum & 0xff
}

/** Where the transport header begins in a packet that tests made. */
export function transportOf(packet: Uint8Array): number {
  return packet[0]! >> 4 === 4 ? (packet[0]! & 15) * 4 : 40
}

/** What the transport checksum covers besides the segment. */
export function pseudoHeader(packet: Uint8Array): Buffer {
  const start = transportOf(packet)
  const isIpv4 = packet[0]! >> 4 === 4
  const addresses = isIpv4 ? packet.subarray(12, 20) : packet.subarray(8, 40)
  const rest = Buffer.alloc(8)
  rest.writeUInt32BE(packet.length - start, 0)
  rest[7] = packet[isIpv4 ? 9 : 6]!
  return Buffer.concat([addresses, rest])
}

/** Puts the right TCP or UDP checksum into a packet that was changed. */
export function resumTransport(packet: Buffer): Buffer {
  const start = transportOf(packet)
  const isUdp = packet[packet[0]! >> 4 === 4 ? 9 : 6] === 17
  const field = start + (isUdp ? 6 : 16)
  packet.writeUInt16BE(0, field)
  const sum = referenceChecksum(
    Buffer.concat([pseudoHeader(packet), packet.subarray(start)]),
  )
  packet.writeUInt16BE(isUdp && sum === 0 ? 0xffff : sum, field)
  return packet
}

/** An address as packets have it. */
export function ip(text: string): Uint8Array {
  return addressBytes(parseAddress(text))
}

export function range(text: string): Range {
  const { family, network, length } = parsePrefix(text)
  return { address: addressBytes({ family, value: network }), length }
}
