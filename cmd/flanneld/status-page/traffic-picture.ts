import { formatScaled } from '../format-scaled.js'
import { type Html, html } from './html.js'
import type { Rates } from './traffic-history.js'

const WIDTH = 640
const HEIGHT = 96

/** Shorter spans are drawn on the right of an empty one. */
const SPAN_MS = 60_000

/** Two lines: bytes sent and received per second, over the time that somebody has looked. */
export function trafficPicture(rates: readonly Rates[]): Html {
  const last = rates.at(-1)
  if (last === undefined)
    return html`<p class="quiet">Measuring: the second look tells.</p>`
  const first = rates[0] ?? last
  const span = Math.max(SPAN_MS, last.atMs - first.atMs)
  const most = Math.max(1, ...rates.flatMap(each => [each.sentBytes, each.receivedBytes]))
  const line = (name: 'sentBytes' | 'receivedBytes'): string =>
    rates
      .map(each => {
        const x = WIDTH - ((last.atMs - each.atMs) / span) * WIDTH
        const y = HEIGHT - (each[name] / most) * (HEIGHT - 4) - 2
        return `${x.toFixed(1)},${y.toFixed(1)}`
      })
      .join(' ')
  const [sent, received] = [formatBits(last.sentBytes), formatBits(last.receivedBytes)]
  return html`<p>
      <span class="key sent"></span>sent <b id="sent">${sent}</b>,
      ${Math.round(last.sentPackets)} packets/s <span class="key received"></span>received
      <b id="received">${received}</b>, ${Math.round(last.receivedPackets)} packets/s
    </p>
    <svg
      class="traffic"
      viewBox="0 0 ${WIDTH} ${HEIGHT}"
      role="img"
      aria-label="sent ${sent}, received ${received}"
    >
      <polyline class="sent" points="${line('sentBytes')}" />
      <polyline class="received" points="${line('receivedBytes')}" />
    </svg>
    <p class="quiet">
      the last ${Math.round(span / 1000)} s; the top is ${formatBits(most)}
    </p>`
}

function formatBits(bytesPerSecond: number): string {
  return `${formatScaled(bytesPerSecond * 8)}bit/s`
}
