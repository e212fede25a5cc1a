/** Our servers, as whoever may open their sockets sees them. */
import { AssertionError, strictEqual } from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import {
  type AddressInfo,
  type NetConnectOpts,
  type Server,
  connect,
  createServer,
} from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import {
  type ClosableServer,
  openHealthServer,
  openStatusServer,
} from '../../cmd/flanneld/status-server.js'
import { openWebServer } from '../../cmd/flanneld/web-server.js'
import { DockerEngine } from '../../lib/names/docker-engine.js'
import type { Target } from './target.js'

/** What comes has come by then: from this very process. */
const ANSWER_MS = 2000
const CHECK_EVERY = 50

const log = pino({ level: 'silent' })
const report = (): Promise<never> => Promise.reject(new Error('there is no status here'))

interface Opened {
  readonly server: ClosableServer
  readonly at: NetConnectOpts
}

/** One that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function openStatus(): Promise<Opened> {
  const path = join(mkdtempSync(join(tmpdir(), 'flanneld-fuzz-')), 'status')
  const actions = new Map([['apply', (): undefined => undefined]])
  const questions = new Map([['lease-times', () => Promise.resolve({})]])
  const server = await openStatusServer(path, report, actions, questions)
  return { server, at: { path } }
}

async function openHealth(): Promise<Opened> {
  const at = { host: '127.0.0.1', port: await freePort() }
  const health = { trouble: () => undefined, notes: () => ['a note'] }
  return { server: await openHealthServer(at, health, log), at }
}

async function openWeb(): Promise<Opened> {
  const at = { host: '127.0.0.1', port: await freePort() }
  const options = { address: at, report, journalFile: '/nowhere', log }
  return { server: await openWebServer(options), at }
}

/** Sends bytes, and resolves with what comes back until the server closes or is silent. */
async function exchange(
  at: NetConnectOpts,
  bytes: Buffer | string,
  silenceMs = ANSWER_MS,
): Promise<string> {
  const socket = connect(at)
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  // Closed in the middle of what we say, which is one way to refuse.
  socket.on('error', () => undefined)
  socket.setTimeout(silenceMs, () => socket.destroy())
  socket.end(bytes)
  await once(socket, 'close')
  return Buffer.concat(chunks).toString('latin1')
}

function serverTarget(
  name: string,
  seeds: Target['seeds'],
  open: () => Promise<Opened>,
): Target {
  let opened: Promise<Opened> | undefined
  let count = 0
  return {
    name,
    seeds,
    close: async () => {
      await (await opened)?.server.close()
    },
    run: async input => {
      opened ??= open()
      const { at } = await opened
      const answer = await exchange(at, input)
      if (answer !== '' && !/^HTTP\/1\.1 \d{3} /.test(answer))
        throw new Error(`it answers ${answer}`)
      if (count++ % CHECK_EVERY !== 0) return
      const after = await exchange(
        at,
        'GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
        10 * ANSWER_MS,
      )
      if (!after.startsWith('HTTP/1.1 404 '))
        throw new Error(`it does not answer any more: ${after}`)
    },
  }
}

const request = (line: string, ...headers: readonly string[]): string =>
  [`${line} HTTP/1.1`, 'Host: localhost', ...headers, 'Connection: close', '', ''].join(
    '\r\n',
  )

/** Another's server: its answers are foreign, and whatever they are there is a list or an error soon. */
function dockerTarget(): Target {
  let opened: Promise<{ server: Server; engine: DockerEngine }> | undefined
  let answer: Buffer = Buffer.alloc(0)
  const open = async (): Promise<{ server: Server; engine: DockerEngine }> => {
    const path = join(mkdtempSync(join(tmpdir(), 'flanneld-fuzz-')), 'docker')
    const server = createServer(socket => {
      socket.on('error', () => undefined).on('data', () => socket.end(answer))
    }).listen(path)
    await once(server, 'listening')
    return { server, engine: new DockerEngine(path) }
  }
  return {
    name: 'docker-engine',
    seeds: [
      engineAnswer(
        '[{"Id":"a1","Names":["/web","/other/alias"],"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"10.5.72.9","GlobalIPv6Address":""}}}}]',
      ),
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n',
      'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n',
    ],
    close: async () => {
      const server = (await opened)?.server
      server?.close()
    },
    run: async input => {
      const { engine } = await (opened ??= open())
      answer = input
      try {
        for (const { id, name, addresses } of await engine.containers())
          strictEqual(
            [id, name, ...addresses].every(each => typeof each === 'string'),
            true,
          )
      } catch (error) {
        const isOurFault = error instanceof TypeError || error instanceof AssertionError
        if (isOurFault || !(error instanceof Error)) throw error
      }
    },
  }
}

const engineAnswer = (body: string): string =>
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`

export const SERVERS: readonly Target[] = [
  serverTarget(
    'status-socket',
    [
      request('GET /status'),
      request('GET /lease-times'),
      request('POST /apply', 'Content-Length: 2') + '{}',
    ],
    openStatus,
  ),
  serverTarget(
    'health-port',
    [request('GET /healthz'), request('HEAD /readyz?x=1'), request('GET //')],
    openHealth,
  ),
  serverTarget(
    'status-page',
    [
      request('GET /'),
      request('GET /metrics', 'Accept: text/plain'),
      request('OPTIONS *'),
    ],
    openWeb,
  ),
  dockerTarget(),
]
