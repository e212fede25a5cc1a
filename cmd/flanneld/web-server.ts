import { createServer } from 'node:http'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import type { ListenAddress } from './listen-address.js'
import { Metrics } from './metrics.js'
import { StatusPage } from './status-page/status-page.js'
import { CONTENT_SECURITY_POLICY } from './status-page/page.js'
import {
  type ClosableServer,
  type StatusReport,
  closable,
  listen,
} from './status-server.js'
import { StartError } from './start-error.js'

interface Document {
  readonly type: string
  readonly read: () => Promise<string>
}

export interface WebServerOptions {
  readonly address: ListenAddress
  readonly report: StatusReport
  readonly journalFile: string
  readonly log: Logger
}

/**
 * Serves `GET /`, the status page, and `GET /metrics`, and nothing else. A browser of
 * somebody who visits a hostile page must not read them by a name that the page's owner
 * points at us: the Host header has to be an address, localhost or this host's name.
 * Throws StartError.
 */
export async function openWebServer(options: WebServerOptions): Promise<ClosableServer> {
  const { address, report, journalFile, log } = options
  const metrics = new Metrics(report)
  const page = new StatusPage(report, journalFile)
  const documents = new Map<string, Document>([
    ['/', { type: 'text/html; charset=utf-8', read: () => page.html() }],
    ['/metrics', { type: metrics.contentType, read: () => metrics.text() }],
  ])
  const server = createServer((request, response) => {
    const [pathname = ''] = (request.url ?? '').split('?', 1)
    const document = documents.get(pathname)
    if (!isOurs(request.headers.host)) {
      response.writeHead(421).end('ask by address, or by the name of this host')
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405).end()
    } else if (document === undefined) {
      response.writeHead(404).end()
    } else {
      document.read().then(
        text => {
          response.writeHead(200, {
            'content-type': document.type,
            'content-security-policy': CONTENT_SECURITY_POLICY,
            'x-content-type-options': 'nosniff',
            'cache-control': 'no-store',
          })
          response.end(text)
        },
        (error: unknown) => {
          log.error({ path: pathname, reason: String(error) }, 'cannot tell the status')
          response.writeHead(500).end()
        },
      )
    }
  })
  try {
    await listen(server, address)
  } catch (cause) {
    throw new StartError(
      `--status-listen: ${(cause as Error).message}; choose another address or port (ss -tlpn shows who listens)`,
      { cause },
    )
  }
  log.info(address, 'status page and metrics are served')
  return closable(server)
}

function isOurs(header: string | undefined): boolean {
  if (header === undefined) return false
  const name = header.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return isIP(name) !== 0 || name === 'localhost' || name === hostname()
}
