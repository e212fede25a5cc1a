import { readUint16, readUint32, writeUint16, writeUint32 } from './bytes.js'
import { checksumOf, fold, sumPseudoHeader, sumWords } from './checksum.js'
import {
  CHECKSUM,
  FRAGMENT,
  FRAGMENT_MASK,
  IDENTIFICATION,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PAYLOAD_LENGTH,
  PROTOCOL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  TOTAL_LENGTH,
  versionOf,
} from './ip.js'
import type { PacketMemory } from './packet-memory.js'
import {
  CWR,
  DATA_OFFSET,
  FIN,
  FLAGS,
  PSH,
  SEQUENCE,
  TCP_CHECKSUM,
  TCP_HEADER,
  UDP_CHECKSUM,
  UDP_HEADER,
  UDP_LENGTH,
} from './transport.js'
import { Gso } from './virtio.js'

/**
 * A super-packet from the kernel and the packets that it stands for. The cut
 * writes headers alone; payload stays where it is.
 *
 *   super-packet   | header |        payload         |
 *                           | slice | slice | slice  |
 *   packets        | header'| slice |
 *                  | header"| slice | …
 *
 * One object is used again and again; nothing is allocated.
 */
export class SuperPacket {
  readonly #memory: PacketMemory
  /** Packets that it stands for. */
  count = 0
  /** Of IP and transport header together. */
  headerLength = 0
  /** Bytes of payload of every packet but the last. */
  gsoSize = 0
  #start = 0
  #payloadLength = 0
  #version = 0
  /** Where the transport header begins. */
  #transport = 0
  #protocol = 0
  /** Sum of the IP header without what differs from packet to packet. */
  #ipSum = 0
  /** Sum of pseudo-header and transport header, without what differs. */
  #transportSum = 0

  constructor(memory: PacketMemory) {
    this.#memory = memory
  }

  /**
   * Looks at a super-packet. Returns false when it is none that can be cut:
   * headers that do not fit, or a piece of a packet.
   *
   * @param length a whole IP packet's, checked.
   */
  open(start: number, length: number, type: number, gsoSize: number): boolean {
    const { bytes } = this.#memory
    const version = versionOf(bytes, start)
    const ipLength = version === 4 ? IPV4_HEADER : IPV6_HEADER
    if (gsoSize === 0 || length < ipLength) return false
    if (version === 4) {
      if (bytes[start] !== 0x45) return false
      if ((readUint16(bytes, start + FRAGMENT) & FRAGMENT_MASK) !== 0) return false
    }
    const protocol = bytes[start + (version === 4 ? PROTOCOL : NEXT_HEADER)]!
    const expected = type === Gso.udp ? PROTOCOL_UDP : PROTOCOL_TCP
    if (protocol !== expected) return false
    const transport = start + ipLength
    const headerLength =
      ipLength + transportLength(bytes, transport, protocol, start + length)
    const payloadLength = length - headerLength
    if (headerLength === ipLength || payloadLength <= 0) return false

    this.#start = start
    this.#version = version
    this.#protocol = protocol
    this.#transport = transport
    this.headerLength = headerLength
    this.gsoSize = gsoSize
    this.#payloadLength = payloadLength
    this.count = Math.ceil(payloadLength / gsoSize)
    this.#sumHeaders()
    return true
  }

  #sumHeaders(): void {
    const { bytes } = this.#memory
    const transportLength = this.#start + this.headerLength - this.#transport
    this.#ipSum =
      this.#version === 4
        ? fold(
            sumWords(bytes, this.#start, IPV4_HEADER) +
              not(readUint16(bytes, this.#start + TOTAL_LENGTH)) +
              not(readUint16(bytes, this.#start + IDENTIFICATION)) +
              not(readUint16(bytes, this.#start + CHECKSUM)),
          )
        : 0
    const pseudo = sumPseudoHeader(bytes, this.#start, this.#version, this.#protocol, 0)
    const header = sumWords(bytes, this.#transport, transportLength)
    this.#transportSum =
      this.#protocol === PROTOCOL_TCP
        ? fold(
            pseudo +
              header +
              not(readUint16(bytes, this.#transport + SEQUENCE)) +
              not(readUint16(bytes, this.#transport + SEQUENCE + 2)) +
              not(readUint16(bytes, this.#transport + DATA_OFFSET)) +
              not(readUint16(bytes, this.#transport + TCP_CHECKSUM)),
          )
        : fold(
            pseudo +
              header +
              not(readUint16(bytes, this.#transport + UDP_LENGTH)) +
              not(readUint16(bytes, this.#transport + UDP_CHECKSUM)),
          )
  }

  /** Where the payload of a packet begins. */
  payloadStart(index: number): number {
    return this.#start + this.headerLength + index * this.gsoSize
  }

  payloadLength(index: number): number {
    return Math.min(this.gsoSize, this.#payloadLength - index * this.gsoSize)
  }

  /** Writes the headers of one of the packets to `at`, where MAX_HEADERS bytes are ours. */
  writeHeader(index: number, at: number): void {
    const { bytes, sum } = this.#memory
    const length = this.payloadLength(index)
    bytes.copyWithin(at, this.#start, this.#start + this.headerLength)
    const transport = at + this.#transport - this.#start
    const payloadSum = sum(this.payloadStart(index), length)
    const transportTotal = at + this.headerLength - transport + length
    this.#writeIp(index, at, this.headerLength + length)
    if (this.#protocol === PROTOCOL_TCP)
      this.#writeTcp(index, transport, payloadSum, transportTotal)
    else this.#writeUdp(transport, payloadSum, transportTotal)
  }

  #writeIp(index: number, at: number, total: number): void {
    const { bytes } = this.#memory
    if (this.#version === 6) {
      writeUint16(bytes, at + PAYLOAD_LENGTH, total - IPV6_HEADER)
      return
    }
    const id = (readUint16(bytes, this.#start + IDENTIFICATION) + index) & 0xffff
    writeUint16(bytes, at + TOTAL_LENGTH, total)
    writeUint16(bytes, at + IDENTIFICATION, id)
    writeUint16(bytes, at + CHECKSUM, ~fold(this.#ipSum + total + id) & 0xffff)
  }

  /** FIN and PSH are of the last packet, CWR is of the first (RFC 3168 section 6.1.2). */
  #writeTcp(index: number, at: number, payloadSum: number, total: number): void {
    const { bytes } = this.#memory
    const sequence =
      (readUint32(bytes, this.#transport + SEQUENCE) + index * this.gsoSize) >>> 0
    let flags = bytes[at + FLAGS]!
    if (index > 0) flags &= ~CWR
    if (index < this.count - 1) flags &= ~(FIN | PSH)
    writeUint32(bytes, at + SEQUENCE, sequence)
    bytes[at + FLAGS] = flags
    const sum = fold(
      this.#transportSum +
        total +
        (sequence >>> 16) +
        (sequence & 0xffff) +
        readUint16(bytes, at + DATA_OFFSET) +
        payloadSum,
    )
    writeUint16(bytes, at + TCP_CHECKSUM, ~sum & 0xffff)
  }

  #writeUdp(at: number, payloadSum: number, total: number): void {
    const { bytes } = this.#memory
    writeUint16(bytes, at + UDP_LENGTH, total)
    // The length counts twice: in the header and in the pseudo-header.
    const sum = fold(this.#transportSum + total + total + payloadSum)
    writeUint16(bytes, at + UDP_CHECKSUM, checksumOf(sum, PROTOCOL_UDP))
  }
}

/** Takes a word out of a sum. */
function not(word: number): number {
  return ~word & 0xffff
}

/** Bytes of the transport header, or 0 when it does not fit before `end`. */
function transportLength(
  bytes: Uint8Array,
  transport: number,
  protocol: number,
  end: number,
): number {
  if (protocol === PROTOCOL_UDP) return transport + UDP_HEADER <= end ? UDP_HEADER : 0
  if (transport + TCP_HEADER > end) return 0
  const length = (bytes[transport + DATA_OFFSET]! >>> 4) << 2
  return length >= TCP_HEADER && transport + length <= end ? length : 0
}
