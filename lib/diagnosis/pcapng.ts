/**
 * Files of packets for Wireshark and tcpdump: pcapng (draft-ietf-opsawg-pcapng), in
 * little-endian order, of one interface whose packets begin with their IP header.
 */

const SECTION_HEADER = 0x0a0d0d0a
const BYTE_ORDER_MAGIC = 0x1a2b3c4d
const INTERFACE_DESCRIPTION = 1
const INTERFACE_STATISTICS = 5
const ENHANCED_PACKET = 6

/** LINKTYPE_RAW of tcpdump.org: IPv4 or IPv6, told by the first four bits. */
const LINKTYPE_RAW = 101

const OPTION = {
  end: 0,
  name: 2,
  flags: 2,
  application: 4,
  resolution: 9,
  dropped: 5,
} as const

/** Times are in units of 10^-9 seconds. */
const NANOSECONDS = 9

const INBOUND = 1
const OUTBOUND = 2

export interface CapturedPacket {
  /** From the IP header on, perhaps cut. */
  readonly bytes: Uint8Array
  /** Bytes that it has uncut. */
  readonly length: number
  readonly isOutgoing: boolean
  /** Nanoseconds since 1970. */
  readonly timeNs: bigint
}

/** What comes before the packets. */
export function pcapngStart(options: {
  readonly application: string
  readonly device: string
  readonly snapshotLength: number
}): Buffer {
  const section = Buffer.alloc(16)
  section.writeUInt32LE(BYTE_ORDER_MAGIC, 0)
  section.writeUInt16LE(1, 4) // version 1.0
  section.writeBigInt64LE(-1n, 8) // of unknown length
  const description = Buffer.alloc(8)
  description.writeUInt16LE(LINKTYPE_RAW, 0)
  description.writeUInt32LE(options.snapshotLength, 4)
  return Buffer.concat([
    block(SECTION_HEADER, [
      section,
      option(OPTION.application, Buffer.from(options.application)),
      option(OPTION.end),
    ]),
    block(INTERFACE_DESCRIPTION, [
      description,
      option(OPTION.name, Buffer.from(options.device)),
      option(OPTION.resolution, Buffer.of(NANOSECONDS)),
      option(OPTION.end),
    ]),
  ])
}

export function pcapngPacket(packet: CapturedPacket): Buffer {
  const { bytes, length, isOutgoing, timeNs } = packet
  const head = Buffer.alloc(20)
  writeTime(head, 4, timeNs)
  head.writeUInt32LE(bytes.length, 12)
  head.writeUInt32LE(length, 16)
  const flags = Buffer.alloc(4)
  flags.writeUInt32LE(isOutgoing ? OUTBOUND : INBOUND)
  return block(ENHANCED_PACKET, [
    head,
    padded(bytes),
    option(OPTION.flags, flags),
    option(OPTION.end),
  ])
}

/** @param missed packets that were seen by the interface and not by us. */
export function pcapngEnd(missed: number, timeNs: bigint): Buffer {
  const head = Buffer.alloc(12)
  writeTime(head, 4, timeNs)
  const count = Buffer.alloc(8)
  count.writeBigUInt64LE(BigInt(missed))
  return block(INTERFACE_STATISTICS, [
    head,
    option(OPTION.dropped, count),
    option(OPTION.end),
  ])
}

/** Its high half comes first, whatever the order of bytes. */
function writeTime(target: Buffer, at: number, timeNs: bigint): void {
  target.writeUInt32LE(Number(timeNs >> 32n), at)
  target.writeUInt32LE(Number(timeNs & 0xffffffffn), at + 4)
}

function block(type: number, parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts)
  const whole = Buffer.alloc(body.length + 12)
  whole.writeUInt32LE(type, 0)
  whole.writeUInt32LE(whole.length, 4)
  whole.set(body, 8)
  whole.writeUInt32LE(whole.length, whole.length - 4)
  return whole
}

function option(code: number, value: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt16LE(code, 0)
  head.writeUInt16LE(value.length, 2)
  return Buffer.concat([head, padded(value)])
}

/** To a multiple of four bytes. */
function padded(bytes: Uint8Array): Buffer {
  const whole = Buffer.alloc((bytes.length + 3) & ~3)
  whole.set(bytes)
  return whole
}
