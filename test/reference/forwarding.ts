import type { ForwardingState, NextHop } from '../../lib/encap/forwarding-table.js'
import type { DropReason } from '../../lib/encap/drops.js'
import { referenceChecksum } from './checksum.js'

function isIn(address: number, network: number, length: number): boolean {
  const size = 2 ** (32 - length)
  return Math.floor(address / size) === Math.floor(network / size)
}

/** The longest prefix that holds the address, the last of equals; one after the other. */
export function referenceLookup(
  { network, networkLength, hops }: ForwardingState,
  address: number,
): number | undefined {
  if (!isIn(address, network, networkLength)) return undefined
  let best: number | undefined
  for (const [index, hop] of hops.entries()) {
    if (!isIn(address, hop.network, hop.length)) continue
    if (best === undefined || hop.length >= hops[best]!.length) best = index
  }
  return best
}

/** What becomes of a datagram, said rule by rule: the hop's index or why it is dropped. */
export function referenceInbound(
  state: ForwardingState,
  datagram: Uint8Array,
  outer: number,
): number | DropReason {
  if (datagram.length < 20) return 'tooShort'
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length)
  const version = view.getUint8(0) >> 4
  const headerLength = (view.getUint8(0) % 16) * 4
  if (version !== 4) return 'notIpv4'
  if (headerLength < 20 || headerLength > datagram.length) return 'badHeader'
  if (view.getUint16(2) !== datagram.length) return 'badHeader'
  if (referenceChecksum(datagram.subarray(0, headerLength)) !== 0) return 'badHeader'

  const hop = referenceLookup(state, view.getUint32(12))
  const mayCome =
    state.verify === 'inner' || (hop !== undefined && sends(state.hops[hop]!, outer))
  if (state.verify !== 'off' && (hop === undefined || !mayCome)) {
    const known = state.verify === 'inner' || state.hops.some(each => sends(each, outer))
    return known ? 'wrongSource' : 'unknownSender'
  }
  if (!isIn(view.getUint32(16), state.subnet, state.subnetLength))
    return 'wrongDestination'
  return state.verify === 'off' ? 0 : hop!
}

/** What becomes of a packet from the TUN: the hop's index or why it is dropped. */
export function referenceOutbound(
  state: ForwardingState,
  packet: Uint8Array,
): number | DropReason {
  if (packet.length < 20) return 'tooShort'
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  if (view.getUint8(0) >> 4 !== 4) return 'notIpv4'
  const source = view.getUint32(12)
  const isOfNetwork = isIn(source, state.network, state.networkLength)
  const isOurs = isIn(source, state.subnet, state.subnetLength)
  if (state.verify !== 'off' && isOfNetwork && !isOurs) return 'foreignSource'
  return referenceLookup(state, view.getUint32(16)) ?? 'noRoute'
}

function sends({ address, sources }: NextHop, outer: number): boolean {
  return address === outer || (outer !== 0 && sources.slice(0, 4).includes(outer))
}
