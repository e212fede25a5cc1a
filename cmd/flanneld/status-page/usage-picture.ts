import {
  ADDRESS_BITS,
  type Prefix,
  baseAddress,
  containsPrefix,
  formatAddress,
  formatPrefix,
} from '../../../lib/subnet/prefix.js'
import { type Html, html } from './html.js'

/** Squares of the picture; a larger network shows several subnets as one. */
const MOST_CELLS = 1024
const COLUMNS = 64
const SIZE = 14
const GAP = 2

/** What is known of a subnet, the worst last: a square of several shows its worst. */
export const SLOT_STATES = [
  'free',
  'up',
  'own',
  'unknown',
  'silent',
  'unreachable',
] as const
export type SlotState = (typeof SLOT_STATES)[number]

export interface Slot {
  readonly range: Prefix
  readonly state: SlotState
  /** For whoever points at it. */
  readonly text: string
}

/** The network as squares, one for each subnet that fits into it, in the order of addresses. */
export function usagePicture(
  network: Prefix,
  subnetLength: number,
  slots: readonly Slot[],
): Html {
  const cells = cellsOf(network, subnetLength)
  const shift = BigInt(ADDRESS_BITS[network.family] - cells.length)
  const taken = new Map<number, Slot[]>()
  for (const slot of slots) {
    if (!containsPrefix(network, slot.range)) continue
    const at = Number((slot.range.network - network.network) >> shift)
    const others = taken.get(at)
    if (others === undefined) taken.set(at, [slot])
    else others.push(slot)
  }
  const squares = Array.from({ length: cells.count }, (_, index) =>
    square(index, taken.get(index) ?? [], {
      family: network.family,
      network: network.network + (BigInt(index) << shift),
      length: cells.length,
    }),
  )
  const step = SIZE + GAP
  const columns = Math.min(COLUMNS, cells.count)
  const width = columns * step - GAP
  const height = Math.ceil(cells.count / columns) * step - GAP
  const label = `${slots.length} of ${2 ** Math.min(52, subnetLength - network.length)} subnets of ${formatPrefix(network)} are taken`
  return html`<svg
    class="usage"
    viewBox="0 0 ${width} ${height}"
    width="${width}"
    role="img"
    aria-label="${label}"
  >
    ${squares}
  </svg>`
}

function cellsOf(
  network: Prefix,
  subnetLength: number,
): { count: number; length: number } {
  const most = Math.log2(MOST_CELLS)
  const bits = Math.max(0, Math.min(most, subnetLength - network.length))
  return { count: 2 ** bits, length: network.length + bits }
}

function square(index: number, slots: readonly Slot[], range: Prefix): Html {
  const state = SLOT_STATES.findLast(each => slots.some(slot => slot.state === each))
  const x = (index % COLUMNS) * (SIZE + GAP)
  const y = Math.floor(index / COLUMNS) * (SIZE + GAP)
  const title =
    slots.length === 0
      ? `${formatAddress(baseAddress(range))}/${range.length}: free`
      : slots.map(({ text }) => text).join('\n')
  return html`<rect
    class="${state ?? 'free'}"
    x="${x}"
    y="${y}"
    width="${SIZE}"
    height="${SIZE}"
    rx="2"
    ><title>${title}</title></rect
  >`
}
