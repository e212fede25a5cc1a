import { formatTable } from '../table.js'
import type { PingResult } from './ping.js'

/** Terminal colours (ECMA-48), or nothing where they are not wanted. */
export interface Paint {
  readonly bold: (text: string) => string
  readonly dim: (text: string) => string
  readonly good: (text: string) => string
  readonly bad: (text: string) => string
}

export function paint(colour: boolean): Paint {
  const code = (start: number, end: number) => (text: string) =>
    colour ? `\x1b[${start}m${text}\x1b[${end}m` : text
  return { bold: code(1, 22), dim: code(2, 22), good: code(32, 39), bad: code(31, 39) }
}

/** Who reaches whom, and in how many milliseconds. A row is where the pings come from. */
export function pingMatrix(
  names: readonly string[],
  results: readonly (readonly PingResult[])[],
): string {
  const rows = results.map((row, from) => [
    names[from] ?? '',
    ...row.map((result, to) => (from === to ? '·' : describePing(result))),
  ])
  return formatTable(['from \\ to', ...names], rows)
}

function describePing({ rttMs, errors }: PingResult): string {
  if (rttMs !== undefined) return `${rttMs.toFixed(2)} ms`
  return errors[0] ?? 'no answer'
}

/** Decimal units, as iperf3 and network cards have them. */
export function formatBits(bitsPerSecond: number): string {
  return bitsPerSecond >= 1e9
    ? `${(bitsPerSecond / 1e9).toFixed(2)} Gbit/s`
    : `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`
}

export function indent(text: string, columns = 4): string {
  return text.trimEnd().replaceAll(/^/gm, ' '.repeat(columns))
}
