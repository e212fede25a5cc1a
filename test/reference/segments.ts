import { pseudoHeader, resum, resumTransport, transportOf } from '../helpers/packets.js'
import { referenceChecksum } from './checksum.js'

const [FIN, SYN, RST, PSH, ACK, URG, CWR] = [1, 2, 4, 8, 16, 32, 128]

function isTcp(packet: Uint8Array): boolean {
  return packet[packet[0]! >> 4 === 4 ? 9 : 6] === 6
}

function headerLength(packet: Uint8Array): number {
  const start = transportOf(packet)
  return start + (isTcp(packet) ? (packet[start + 12]! >> 4) * 4 : 8)
}

/** The packet with other payload, and its lengths and checksums right. */
function withData(packet: Uint8Array, data: Uint8Array): Buffer {
  const changed = Buffer.concat([packet.subarray(0, headerLength(packet)), data])
  if (changed[0]! >> 4 === 4) changed.writeUInt16BE(changed.length, 2)
  else changed.writeUInt16BE(changed.length - 40, 4)
  const start = transportOf(changed)
  if (!isTcp(changed)) changed.writeUInt16BE(changed.length - start, start + 4)
  if (changed[0]! >> 4 === 4) resum(changed)
  return resumTransport(changed)
}

/** The packets that a super-packet stands for, each made anew. */
export function referenceCut(packet: Uint8Array, size: number): Buffer[] {
  const data = packet.subarray(headerLength(packet))
  const count = Math.ceil(data.length / size)
  return Array.from({ length: count }, (_, index) => {
    const head = Buffer.from(packet)
    const start = transportOf(head)
    if (head[0]! >> 4 === 4)
      head.writeUInt16BE((head.readUInt16BE(4) + index) % 65_536, 4)
    if (isTcp(head)) {
      head.writeUInt32BE(
        (head.readUInt32BE(start + 4) + index * size) % 2 ** 32,
        start + 4,
      )
      if (index > 0) head[start + 13]! &= ~CWR
      if (index < count - 1) head[start + 13]! &= ~(FIN | PSH)
    }
    return withData(head, data.subarray(index * size, (index + 1) * size))
  })
}

/** Everything about a packet that decides what it may be joined with. */
interface Piece {
  readonly packet: Buffer
  /** Of the flow; undefined for what has none. */
  readonly flow: string | undefined
  /** What must be equal in all packets of a run; undefined for a packet that stays alone. */
  readonly shape: string | undefined
  readonly size: number
  readonly isLast: boolean
}

/** Whether the transport checksum is right. */
function isSound(packet: Buffer): boolean {
  const start = transportOf(packet)
  return (
    referenceChecksum(Buffer.concat([pseudoHeader(packet), packet.subarray(start)])) === 0
  )
}

function look(packet: Buffer): Piece {
  const alone = { packet, flow: undefined, shape: undefined, size: 0, isLast: true }
  const isIpv4 = packet[0]! >> 4 === 4
  const start = transportOf(packet)
  const protocol = packet[isIpv4 ? 9 : 6]!
  if (isIpv4 && (packet[0] !== 0x45 || (packet.readUInt16BE(6) & 0x3fff) !== 0))
    return alone
  if ((protocol !== 6 && protocol !== 17) || packet.length < start + 8) return alone
  const addresses = isIpv4 ? packet.subarray(12, 20) : packet.subarray(8, 40)
  const ports = packet.subarray(start, start + 4)
  const flow = `${protocol} ${addresses.toString('hex')} ${ports.toString('hex')}`
  const single = { ...alone, flow }
  if (protocol === 17) {
    if (packet.readUInt16BE(start + 4) !== packet.length - start) return single
    if (packet.readUInt16BE(start + 6) === 0 || packet.length === start + 8) return single
  } else {
    if (packet.length < start + 20) return single
    const header = (packet[start + 12]! >> 4) * 4
    if (header < 20 || start + header >= packet.length) return single
    if ((packet[start + 13]! & (ACK | SYN | RST | URG | CWR)) !== ACK) return single
  }
  const same = Buffer.from(packet.subarray(0, headerLength(packet)))
  same.fill(0, start + (protocol === 6 ? 16 : 4), start + (protocol === 6 ? 18 : 8))
  if (isIpv4) {
    same.fill(0, 2, 6) // length, identification
    same.fill(0, 10, 12)
  } else same.fill(0, 4, 6)
  if (protocol === 6) {
    same.fill(0, start + 4, start + 8)
    same[start + 13]! &= ~(FIN | PSH)
  }
  const flags = protocol === 6 ? packet[start + 13]! : 0
  return {
    packet,
    flow,
    shape: same.toString('hex'),
    size: packet.length - headerLength(packet),
    isLast: (flags & (FIN | PSH)) !== 0,
  }
}

/**
 * Which packets are joined with which, by their places in the list. A flow has one
 * run that may grow; whatever else comes of it ends that.
 */
export function referenceJoin(packets: readonly Buffer[]): number[][] {
  const runs: { pieces: Piece[]; places: number[]; isOpen: boolean }[] = []
  for (const [place, packet] of packets.entries()) {
    const piece = look(packet)
    const open = runs.find(
      run => run.isOpen && piece.flow !== undefined && run.pieces[0]!.flow === piece.flow,
    )
    if (open !== undefined && fits(open.pieces, piece)) {
      open.pieces.push(piece)
      open.places.push(place)
      open.isOpen = !piece.isLast && piece.size === open.pieces[0]!.size
      continue
    }
    if (open !== undefined) open.isOpen = false
    const isOpen = piece.shape !== undefined && !piece.isLast
    runs.push({ pieces: [piece], places: [place], isOpen })
  }
  return runs.map(({ places }) => places)
}

function fits(pieces: readonly Piece[], next: Piece): boolean {
  const [head] = pieces
  if (head === undefined || next.shape === undefined || next.shape !== head.shape)
    return false
  if (next.size > head.size) return false
  const total = pieces.reduce((sum, { size }) => sum + size, next.size)
  if (headerLength(head.packet) + total > 65_535) return false
  const isIpv4 = head.packet[0]! >> 4 === 4
  if (isIpv4 && (head.packet.readUInt16BE(6) & 0x4000) === 0) {
    const expected = (head.packet.readUInt16BE(4) + pieces.length) % 65_536
    if (next.packet.readUInt16BE(4) !== expected) return false
  }
  if (isTcp(head.packet)) {
    const start = transportOf(head.packet)
    const before = total - next.size
    const expected = (head.packet.readUInt32BE(start + 4) + before) % 2 ** 32
    if (next.packet.readUInt32BE(start + 4) !== expected) return false
  } else if (pieces.length >= 64) return false
  return isSound(head.packet) && isSound(next.packet)
}

/** The super-packet of a run: its checksum field holds the sum of the pseudo-header, as a device is to be told. */
export function referenceSuper(packets: readonly Buffer[]): Buffer {
  const [head] = packets
  if (head === undefined) throw new TypeError('a run of nothing')
  const data = packets.map(packet => packet.subarray(headerLength(packet)))
  const joined = withData(head, Buffer.concat(data))
  const start = transportOf(joined)
  if (isTcp(joined)) {
    const last = packets.at(-1)!
    joined[start + 13]! |= last[start + 13]! & (FIN | PSH)
  }
  const sum = ~referenceChecksum(pseudoHeader(joined)) & 0xffff
  joined.writeUInt16BE(sum, start + (isTcp(joined) ? 16 : 6))
  return joined
}
