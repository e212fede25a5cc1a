import { createServer } from 'node:http'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import type { ListenAddress } from './listen-address.js'
import { Metrics } from './metrics.js'
import {
  type ClosableServer,
  type StatusReport,
  closable,
  listen,
} from './status-server.js'
import { StartError } from './start-error.js'

/**
 * Serves `GET /metrics` and nothing else. A browser of somebody who visits a hostile
 * page must not read it by a name that the page's owner points at us: the Host header
 * has to be an address, localhost or this host's name.
 */
export async function openMetricsServer(
  address: ListenAddress,
  report: StatusReport,
  log: Logger,
): Promise<ClosableServer> {
  const metrics = new Metrics(report)
  const server = createServer((request, response) => {
    const [pathname] = (request.url ?? '').split('?', 1)
    if (!isOurs(request.headers.host)) {
      response.writeHead(421).end('ask by address, or by the name of this host')
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405).end()
    } else if (pathname !== '/metrics') {
      response.writeHead(404).end()
    } else {
      metrics.text().then(
        text => {
          response.writeHead(200, { 'content-type': metrics.contentType }).end(text)
        },
        (error: unknown) => {
          log.error({ reason: String(error) }, 'cannot tell the metrics')
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
  log.info(address, 'metrics are served')
  return closable(server)
}

function isOurs(header: string | undefined): boolean {
  if (header === undefined) return false
  const name = header.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return isIP(name) !== 0 || name === 'localhost' || name === hostname()
}
