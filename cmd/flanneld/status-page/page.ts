import { createHash } from 'node:crypto'
import { ROUTE_PROTOCOL } from '../../../lib/backend/route-protocol.js'
import type { Route } from '../../../lib/linux/ip-routes.js'
import { type Prefix, parsePrefix } from '../../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../../lib/subnet/subnet-key.js'
import { publicAddressOf } from '../../../lib/subnet/subnet-record.js'
import type { JournalEvent } from '../journal.js'
import type { DaemonStatus } from '../status-schema.js'
import { Html, html } from './html.js'
import { STYLE } from './style.js'
import type { Rates } from './traffic-history.js'
import { trafficPicture } from './traffic-picture.js'
import { SLOT_STATES, type Slot, type SlotState, usagePicture } from './usage-picture.js'

/** A browser asks again after so many seconds. */
const REFRESH_SECONDS = 2

/** More rows are nothing that a person reads. */
const MOST_REMOTES = 500
const MOST_ROUTES = 200
const MOST_EVENTS = 20

/** Nothing from anywhere else, and no script at all. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`,
  "frame-ancestors 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ')

/** Its text is what the hash above is of: no blank more. */
const STYLE_ELEMENT = new Html(`<style>${STYLE}</style>`)

export interface PageData {
  readonly hostname: string
  readonly version: string
  readonly status: DaemonStatus
  readonly rates: readonly Rates[]
  /** The oldest first. */
  readonly events: readonly JournalEvent[]
  readonly routes: readonly Route[]
  readonly now: Date
}

type Remote = NonNullable<DaemonStatus['remotes']>[number]

/** The status of this host and what it knows of the others, for people. */
export function renderPage(data: PageData): string {
  const { hostname, version, status, rates, events, routes, now } = data
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width" />
        <meta http-equiv="refresh" content="${REFRESH_SECONDS}" />
        <title>${hostname}: flanneld</title>
        ${STYLE_ELEMENT}
      </head>
      <body>
        <header>
          <h1>${hostname}</h1>
          <p>${describeHost(status)}</p>
          ${banners(status)}
        </header>
        <main>
          ${usageSection(status)}
          <section id="traffic">
            <h2>Traffic of the overlay</h2>
            ${trafficPicture(rates)}
          </section>
          ${remotesSection(status)}
          <section id="events">
            <h2>What has become of the lease</h2>
            ${eventsTable(events)}
          </section>
          <section id="routes">
            <h2>Routes of this host</h2>
            ${routesTable(routes)}
          </section>
        </main>
        <footer>
          flanneld ${version}, as of ${now.toISOString().slice(0, 19).replace('T', ' ')}
          UTC; looks again every ${REFRESH_SECONDS} s
        </footer>
      </body>
    </html> `.text
}

function describeHost({ lease, backend, networks = [], underlay }: DaemonStatus): string {
  if (lease === undefined || backend === undefined) return 'no subnet yet'
  const by = underlay === undefined ? '' : `, over ${underlay.device}`
  return `${lease.subnet} of ${networks.join(' and ')} by ${backend.type} on ${backend.device}${by}`
}

function banners(status: DaemonStatus): Html[] {
  const { phase, waitingFor, etcdReachable, troubles, notes } = status
  const wrong = Object.entries(troubles).map(entry => entry.join(': '))
  const said = Object.entries(notes).map(entry => entry.join(': '))
  const isReady = phase === 'ready' && wrong.length === 0
  if (phase === 'ready' && !etcdReachable)
    said.unshift('etcd does not answer; going on with the last known leases')
  if (phase !== 'ready') wrong.unshift(waitingFor ?? phase)
  return [
    html`<p class="state ${isReady ? 'good' : 'bad'}" id="state">
      ${isReady ? 'ready' : phase === 'ready' ? 'not ready' : phase}
    </p>`,
    ...wrong.map(text => html`<p class="bad">${text}</p>`),
    ...said.map(text => html`<p class="note">${text}</p>`),
  ]
}

function stateOf({ path }: Remote): Exclude<SlotState, 'free' | 'own'> {
  return path?.state ?? 'unknown'
}

function usageSection({ networks, lease, remotes = [] }: DaemonStatus): Html {
  if (networks === undefined || lease === undefined)
    return html`<section id="usage">
      <h2>Network</h2>
      <p class="quiet">Not known yet.</p>
    </section>`
  const slots: Slot[] = [
    ...parseSubnetText(lease.subnet).map(range => ({
      range,
      state: 'own' as const,
      text: `${lease.subnet}: this host`,
    })),
    ...remotes.flatMap(remote => {
      const text = `${remote.subnet}: ${publicAddressOf(remote.record)}, ${stateOf(remote)}`
      return parseSubnetText(remote.subnet).map(range => ({
        range,
        state: stateOf(remote),
        text,
      }))
    }),
  ]
  const own = parseSubnetText(lease.subnet)
  const pictures = networks.map(parsePrefix).map(network => {
    const mine = slots.filter(({ range }) => range.family === network.family)
    return pictureOf(network, own, mine)
  })
  return html`<section id="usage">
    <h2>${remotes.length + 1} subnets of ${networks.join(' and ')} are taken</h2>
    ${pictures}
    <p class="legend">
      ${SLOT_STATES.map(state => html`<span class="key ${state}"></span>${LEGEND[state]} `)}
    </p>
  </section>`
}

const LEGEND: Readonly<Record<SlotState, string>> = {
  free: 'free',
  up: 'answers',
  own: 'this host',
  unknown: 'not measured',
  silent: 'silent in the overlay',
  unreachable: 'does not answer',
}

function pictureOf(
  network: Prefix,
  own: readonly Prefix[],
  slots: readonly Slot[],
): Html {
  const length = own.find(({ family }) => family === network.family)?.length
  return usagePicture(network, length ?? network.length, slots)
}

function remotesSection({ remotes = [], probes }: DaemonStatus): Html {
  // What needs somebody comes first.
  const badness = (remote: Remote): number => SLOT_STATES.indexOf(stateOf(remote))
  const rows = [...remotes].sort((a, b) => badness(b) - badness(a)).slice(0, MOST_REMOTES)
  const more = remotes.length - rows.length
  return html`<section id="remotes">
    <h2>Other hosts</h2>
    ${probes?.trouble ? [html`<p class="quiet">The ways to them are not measured: ${probes.trouble}</p>`] : []}
    <table>
      <thead>
        <tr>
          <th>Subnet</th>
          <th>Public IP</th>
          <th>State</th>
          <th>Round trip</th>
          <th>Loss</th>
          <th>Longest packet</th>
          <th></th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(remoteRow)}
      </tbody>
    </table>
    ${more > 0 ? [html`<p class="quiet">and ${more} more, of those that do best</p>`] : []}
  </section>`
}

function remoteRow(remote: Remote): Html {
  const { subnet, path } = remote
  const state = stateOf(remote)
  const roundTrip = path?.roundTripMs
  const loss = path?.loss
  return html`<tr>
    <td>${subnet}</td>
    <td>${publicAddressOf(remote.record)}</td>
    <td><span class="key ${state}"></span>${LEGEND[state]}</td>
    <td>${typeof roundTrip === 'number' ? `${roundTrip.toFixed(2)} ms` : ''}</td>
    <td>${typeof loss === 'number' ? `${Math.round(loss * 100)}%` : ''}</td>
    <td>${path?.pathMtu ?? ''}</td>
    <td>${path?.trouble ?? ''}</td>
  </tr>`
}

function eventsTable(events: readonly JournalEvent[]): Html {
  const latest = events.slice(-MOST_EVENTS).reverse()
  if (latest.length === 0) return html`<p class="quiet">Nothing yet.</p>`
  return html`<table>
    <tbody>
      ${latest.map(({ at, event, ...fields }) => {
        const rest = Object.entries(fields).map(
          ([name, value]) => `${name} ${String(value)}`,
        )
        return html`<tr>
          <td>${at.slice(0, 19).replace('T', ' ')}</td>
          <td>${event}</td>
          <td>${rest.join(', ')}</td>
        </tr>`
      })}
    </tbody>
  </table>`
}

function routesTable(routes: readonly Route[]): Html {
  const isOurs = ({ protocol }: Route): boolean => protocol === String(ROUTE_PROTOCOL)
  const rows = routes.slice(0, MOST_ROUTES)
  const more = routes.length - rows.length
  return html`<table>
      <thead>
        <tr>
          <th>Destination</th>
          <th>By</th>
          <th>Device</th>
          <th>Of</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          route =>
            html`<tr class="${isOurs(route) ? 'ours' : ''}">
              <td>${route.destination}</td>
              <td>
                ${
                  route.type === 'unicast'
                    ? route.nextHops.map(({ gateway }) => gateway ?? '').join(', ')
                    : route.type
                }
              </td>
              <td>${route.nextHops.map(({ device }) => device).join(', ')}</td>
              <td>${isOurs(route) ? 'flanneld' : route.protocol}</td>
            </tr>`,
        )}
      </tbody>
    </table>
    ${more > 0 ? [html`<p class="quiet">and ${more} more</p>`] : []}`
}
