import type { ForwardingState, NextHop } from '../../lib/encap/forwarding-table.js'
import type { Range } from '../../lib/encap/subnet-index.js'
import type { DropReason } from '../../lib/encap/drops.js'
import { referenceChecksum } from './checksum.js'

function toNumber(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
}

function isIn(address: Uint8Array, { address: base, length }: Range): boolean {
  const hostBits = BigInt(base.length * 8 - length)
  return (
    address.length === base.length &&
    toNumber(address) >> hostBits === toNumber(base) >> hostBits
  )
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.from(a).equals(b)
}

/** The longest prefix that holds the address, the last of equals; one after the other. */
export function referenceLookup(
  { families, hops }: Pick<ForwardingState, 'families' | 'hops'>,
  address: Uint8Array,
): number | undefined {
  if (!families.some(({ network }) => isIn(address, network))) return undefined
  let best: { readonly hop: number; readonly length: number } | undefined
  for (const [hop, { subnets }] of hops.entries()) {
    for (const subnet of subnets) {
      if (!isIn(address, subnet)) continue
      if (best === undefined || subnet.length >= best.length)
        best = { hop, length: subnet.length }
    }
  }
  return best?.hop
}

interface Parsed {
  readonly source: Uint8Array
  readonly destination: Uint8Array
}

/** A whole IP packet, or what is wrong with it. */
function parse(packet: Uint8Array): Parsed | DropReason {
  if (packet.length < 20) return 'tooShort'
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  const version = view.getUint8(0) >> 4
  if (version === 6) {
    if (packet.length < 40) return 'tooShort'
    if (view.getUint16(4) + 40 !== packet.length) return 'badHeader'
    return { source: packet.subarray(8, 24), destination: packet.subarray(24, 40) }
  }
  if (version !== 4) return 'notIp'
  const headerLength = (view.getUint8(0) % 16) * 4
  if (headerLength < 20 || headerLength > packet.length) return 'badHeader'
  if (view.getUint16(2) !== packet.length) return 'badHeader'
  return { source: packet.subarray(12, 16), destination: packet.subarray(16, 20) }
}

function checksumIsRight(packet: Uint8Array): boolean {
  const headerLength = (packet[0]! % 16) * 4
  return (
    packet[0]! >> 4 === 6 || referenceChecksum(packet.subarray(0, headerLength)) === 0
  )
}

/** What becomes of a datagram, said rule by rule: the hop's index or why it is dropped. */
export function referenceInbound(
  state: ForwardingState,
  datagram: Uint8Array,
  outer: Uint8Array,
): number | DropReason {
  const parsed = parse(datagram)
  if (typeof parsed === 'string') return parsed
  if (!checksumIsRight(datagram)) return 'badHeader'
  const { source, destination } = parsed
  const family = state.families.find(
    ({ network }) => network.address.length === source.length,
  )
  if (family === undefined) return 'wrongDestination'
  const hop = referenceLookup(state, source)
  const mayCome =
    state.verify === 'inner' || (hop !== undefined && sends(state.hops[hop]!, outer))
  if (state.verify !== 'off' && (hop === undefined || !mayCome)) {
    const known = state.verify === 'inner' || state.hops.some(each => sends(each, outer))
    return known ? 'wrongSource' : 'unknownSender'
  }
  if (!isIn(destination, family.subnet)) return 'wrongDestination'
  return state.verify === 'off' ? 0 : hop!
}

/** What becomes of a packet from the TUN: the hop's index or why it is dropped. */
export function referenceOutbound(
  state: ForwardingState,
  packet: Uint8Array,
): number | DropReason {
  const parsed = parse(packet)
  if (typeof parsed === 'string') return parsed
  const { source, destination } = parsed
  const isOfNetwork = state.families.some(({ network }) => isIn(source, network))
  const isOurs = state.families.some(({ subnet }) => isIn(source, subnet))
  if (state.verify !== 'off' && isOfNetwork && !isOurs) return 'foreignSource'
  return referenceLookup(state, destination) ?? 'noRoute'
}

function sends({ address, sources }: NextHop, outer: Uint8Array): boolean {
  if (outer.every(byte => byte === 0)) return false
  return [address, ...sources.slice(0, 4)].some(sender => isSame(sender, outer))
}
