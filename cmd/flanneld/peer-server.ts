import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import type { Socket } from 'node:net'
import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import { untilAborted } from '../../lib/subnet/loops.js'
import {
  type Address,
  type Prefix,
  baseAddress,
  firstHostAddress,
  formatAddress,
  parseAddress,
  sameAddress,
  isAmong,
} from '../../lib/subnet/prefix.js'
import { closable, listen } from './status-server.js'

const MOST_CONNECTIONS = 16
const REQUEST_TIMEOUT_MS = 5000
const CHECK_MS = 1000

/** Only root of another host may send from such a port, and only root of this host listen on one. */
export const MOST_PRIVILEGED_PORT = 1023

/** A look costs this host some packets and processes: no more than one in so long. */
const PAUSE_MS = 1000

/** The bridge of containers may come, and go, at any time. */
const RETRY_MS = 5000

/** Another host that may ask. */
export interface Peer {
  readonly ranges: readonly Prefix[]
  /** By which other hosts reach it on the underlay. */
  readonly addresses: readonly Address[]
}

export interface PeerServerOptions {
  /** Of TCP; 0 for no server. */
  readonly port: number
  /** This host's part of the overlay. */
  readonly ranges: readonly Prefix[]
  readonly peers: () => readonly Peer[]
  /** What this host finds on the way; JSON. Throws Error. */
  readonly look: (from: string, to: string) => Promise<string>
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Answers `GET /why?from=A&to=B` on this host's address in the overlay: what this
 * host, which has A, finds on the way to B, which the asker has. Only hosts of the
 * overlay are heard, by address and port that their packets come from.
 */
export async function servePeers(
  options: PeerServerOptions,
  signal: AbortSignal,
): Promise<void> {
  if (options.port === 0) {
    await untilAborted(signal)
    return
  }
  const answer = answerer(options)
  const limits = {
    requestTimeout: REQUEST_TIMEOUT_MS,
    headersTimeout: REQUEST_TIMEOUT_MS,
    connectionsCheckingInterval: CHECK_MS,
  }
  const askers = new WeakMap<Socket, Peer>()
  const server = createServer(limits, (request, response) => {
    const peer = askers.get(request.socket)
    if (peer === undefined) request.socket.destroy()
    else
      void answer(request, peer).then(({ code, text }) => {
        reply(response, code, text)
      })
  })
  server.maxConnections = MOST_CONNECTIONS
  server.maxRequestsPerSocket = 1
  // Strangers take no place of those that may ask.
  server.on('connection', socket => {
    const peer = findPeer(options.peers(), socket)
    if (peer === undefined) socket.destroy()
    else askers.set(socket, peer)
  })
  const hosts = options.ranges.flatMap(hostAddresses).map(formatAddress)
  const { port, clock, log } = options
  let said = ''
  for (let turn = 0; !signal.aborted; turn++) {
    const host = hosts[turn % hosts.length] ?? ''
    try {
      await listen(server, { host, port })
      log.info({ host, port }, 'other hosts may ask for their flannelctl why')
      break
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      // Which of the two addresses a host has depends on the backend.
      const isLast = turn % hosts.length === hosts.length - 1
      const reason =
        code === 'EADDRNOTAVAIL' ? 'no address of the subnet is here' : message
      if (reason !== said && (isLast || code !== 'EADDRNOTAVAIL')) {
        said = reason
        log.warn({ reason }, 'cannot answer other hosts; trying again')
      }
      if (isLast) await clock.sleep(RETRY_MS, signal)
    }
  }
  await untilAborted(signal)
  await closable(server).close()
}

/** A host is at one of these: on the device of the overlay, or on the bridge of its containers. */
function hostAddresses(range: Prefix): Address[] {
  return [baseAddress(range), firstHostAddress(range)]
}

function reply(response: ServerResponse, code: number, text: string): void {
  const type = code === 200 ? 'application/json' : 'text/plain'
  response.writeHead(code, { 'content-type': type, connection: 'close' }).end(text)
}

interface Answer {
  readonly code: number
  readonly text: string
}

function answerer(
  options: PeerServerOptions,
): (request: IncomingMessage, peer: Peer) => Promise<Answer> {
  const { ranges, look, clock, log } = options
  let isBusy = false
  let freeAt = -Infinity
  return async ({ method, url = '' }, peer) => {
    const [path, query] = url.split('?', 2)
    if (path !== '/why') return { code: 404, text: 'nothing here' }
    if (method !== 'GET') return { code: 405, text: 'GET alone' }
    const asked = new URLSearchParams(query)
    const from = readAddress(asked.get('from'))
    const to = readAddress(asked.get('to'))
    if (from === undefined || !isAmong(ranges, from))
      return { code: 400, text: 'from has to be an address of this host' }
    if (to === undefined || !isAmong(peer.ranges, to))
      return { code: 400, text: 'to has to be an address of the host that asks' }
    if (isBusy || clock.now() < freeAt)
      return { code: 503, text: 'it is asked too often; try again in a moment' }
    isBusy = true
    try {
      return { code: 200, text: await look(formatAddress(from), formatAddress(to)) }
    } catch (error) {
      log.warn({ reason: (error as Error).message }, 'cannot look for another host')
      return { code: 500, text: 'it cannot look; its log says why' }
    } finally {
      isBusy = false
      freeAt = clock.now() + PAUSE_MS
    }
  }
}

/** Who asks; undefined for whom is not to be heard. */
function findPeer(
  peers: readonly Peer[],
  { remoteAddress, remotePort = 0 }: Socket,
): Peer | undefined {
  const address = readAddress(remoteAddress)
  if (address === undefined || remotePort > MOST_PRIVILEGED_PORT) return undefined
  return peers.find(({ ranges, addresses }) =>
    [...ranges.flatMap(hostAddresses), ...addresses].some(each =>
      sameAddress(each, address),
    ),
  )
}

function readAddress(text: string | null | undefined): Address | undefined {
  try {
    return text ? parseAddress(text) : undefined
  } catch {
    return undefined
  }
}
