import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { type Server, createServer } from 'node:http'
import type { Logger } from 'pino'
import { StartError } from './start-error.js'

/** What the daemon knows of itself, ready for JSON. */
export type StatusReport = () => Promise<Record<string, unknown>>

export interface ClosableServer {
  close(): Promise<void>
}

/** What may be asked by name besides the status, because it takes too long for that. */
export type Questions = ReadonlyMap<string, () => Promise<unknown>>

/**
 * Answers `GET /status` on a Unix socket that only its owner may open, `GET /<question>`
 * while that can be asked, and `POST /<action>` with 202, or with 409 when there is
 * nothing to act on now.
 */
export async function openStatusServer(
  path: string,
  report: StatusReport,
  actions: ReadonlyMap<string, () => unknown>,
  questions: Questions = new Map(),
): Promise<ClosableServer> {
  const server = createServer((request, response) => {
    if (request.method === 'POST') {
      const act = actions.get((request.url ?? '').slice(1))
      response.writeHead(act === undefined ? 409 : 202).end()
      act?.()
      return
    }
    const name = (request.url ?? '').slice(1)
    const answer = name === 'status' ? report : questions.get(name)
    if (request.method !== 'GET' || answer === undefined) {
      response.writeHead(404).end()
      return
    }
    answer().then(
      status => {
        response.writeHead(200, { 'content-type': 'application/json' })
        response.end(JSON.stringify(status))
      },
      (error: unknown) => {
        response.writeHead(500, { 'content-type': 'application/json' })
        response.end(JSON.stringify({ error: String(error) }))
      },
    )
  })
  rmSync(path, { force: true })
  // The socket must never be open to others, not even between bind and chmod.
  const mask = process.umask(0o177)
  try {
    await listen(server, { path })
  } finally {
    process.umask(mask)
  }
  return closable(server)
}

/** How well the daemon does: flannel's two paths, answered honestly. */
export interface Health {
  /** Why packets cannot flow at present; undefined when they can. */
  trouble(): string | undefined
  /** What an operator should know although packets flow. */
  notes(): readonly string[]
}

/** Answers `/healthz` and `/readyz` and nothing else. Throws StartError. */
export async function openHealthServer(
  address: { host: string; port: number },
  health: Health,
  log: Logger,
): Promise<ClosableServer> {
  const server = createServer((request, response) => {
    // Not through URL, which throws on what anybody may send, such as `//`.
    const [pathname] = (request.url ?? '').split('?', 1)
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405).end()
    } else if (pathname === '/healthz') {
      response.writeHead(200).end('flanneld is running')
    } else if (pathname === '/readyz') {
      const trouble = health.trouble()
      const notes = health.notes().map(note => `\nnote: ${note}`)
      if (trouble === undefined)
        response.writeHead(200).end(`flanneld is ready${notes.join('')}`)
      else response.writeHead(503).end(`flanneld is not ready yet: ${trouble}`)
    } else {
      response.writeHead(404).end()
    }
  })
  try {
    await listen(server, address)
  } catch (cause) {
    throw new StartError(
      `--healthz-port: ${(cause as Error).message}; choose another --healthz-port or --healthz-ip (ss -tlpn shows who listens)`,
      { cause },
    )
  }
  log.info(address, 'health server listens')
  return closable(server)
}

export async function listen(
  server: Server,
  where: { path: string } | { host: string; port: number },
): Promise<void> {
  // One that fails may be tried again: no listener may stay behind.
  const heard = new AbortController()
  const { signal } = heard
  try {
    const listening = once(server, 'listening', { signal })
    server.listen(where)
    await listening
  } finally {
    heard.abort()
  }
}

export function closable(server: Server): ClosableServer {
  return {
    close: async () => {
      await new Promise<void>(resolve => {
        server.close(() => {
          resolve()
        })
        server.closeAllConnections()
      })
    },
  }
}
