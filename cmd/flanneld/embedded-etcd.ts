import { type ChildProcess, spawn } from 'node:child_process'
import { get as httpGet } from 'node:http'
import { get as httpsGet } from 'node:https'
import { createInterface } from 'node:readline'
import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import { makeDirectory } from './files.js'
import { StartError } from './start-error.js'

/** etcd makes its files and elects itself in about a second. */
const START_TIMEOUT_MS = 30_000
const POLL_MS = 50
const ANSWER_TIMEOUT_MS = 1000
const STOP_TIMEOUT_MS = 5000

/** Lines of etcd's own that are shown when it fails. */
const LAST_LINES = 3

/** execvp(3) through setpriv(1): there is no such program. */
const EXIT_NOT_FOUND = 127

export interface EmbeddedEtcdOptions {
  /** Where clients come: an origin with a port. For https, `tls` is needed. */
  readonly listen: URL
  readonly dataDir: string
  /** Files of the server's certificate and key. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string }
  readonly clock: Clock
  readonly log: Logger
  /** Gives up the start, without an error. */
  readonly stop?: AbortSignal
}

export interface EmbeddedEtcd {
  /** The endpoint for clients on this host. */
  readonly endpoint: string
  /** Ends it and waits for that. Idempotent. */
  close(): Promise<void>
}

/**
 * Runs Debian's etcd as a single member and a child of ours, with which it
 * ends. Resolves once it answers. Throws StartError when it is not installed,
 * its port is taken, or it fails.
 */
export async function openEmbeddedEtcd(
  options: EmbeddedEtcdOptions,
): Promise<EmbeddedEtcd> {
  const { listen, dataDir, clock, log, stop } = options
  const endpoint = localEndpoint(listen)
  if (await isTaken(endpoint)) {
    throw new StartError(
      `cannot run an etcd on ${listen.host}: something listens there already; stop it, choose another --embedded-etcd-listen, or use the etcd there: --etcd-endpoints=${endpoint.origin} without --embedded-etcd`,
    )
  }
  try {
    await makeDirectory(dataDir, 0o700)
  } catch (cause) {
    throw new StartError(
      `cannot make the data directory of the embedded etcd ${dataDir}: ${(cause as Error).message}; choose another with --embedded-etcd-data-dir`,
      { cause },
    )
  }
  const etcd = new EtcdChild(etcdArguments(options), log)
  const deadline = clock.now() + START_TIMEOUT_MS
  while (stop?.aborted !== true && !(await isHealthy(endpoint))) {
    if (etcd.failure === undefined && clock.now() <= deadline) {
      await clock.sleep(POLL_MS, stop)
      continue
    }
    await etcd.close()
    throw new StartError(
      etcd.failure ?? `etcd does not answer on ${endpoint.origin}; its data: ${dataDir}`,
    )
  }
  etcd.onLoss(reason => {
    log.error({ reason }, 'the embedded etcd ended; restart flanneld')
  })
  return { endpoint: endpoint.origin, close: () => etcd.close() }
}

/** An etcd on all addresses is on the loopback address too. */
function localEndpoint(listen: URL): URL {
  const url = new URL(listen.origin)
  if (url.hostname === '0.0.0.0') url.hostname = '127.0.0.1'
  if (url.hostname === '[::]') url.hostname = '[::1]'
  return url
}

async function isTaken(endpoint: URL): Promise<boolean> {
  return (await ask(endpoint)) !== 'absent'
}

async function isHealthy(endpoint: URL): Promise<boolean> {
  return (await ask(endpoint)) === 'healthy'
}

/** Asks for etcd's health page; `present` is what accepts the connection and is no healthy etcd. */
async function ask(endpoint: URL): Promise<'absent' | 'present' | 'healthy'> {
  const url = new URL('/health', endpoint)
  const timeout = ANSWER_TIMEOUT_MS
  return await new Promise(resolve => {
    const request =
      url.protocol === 'https:'
        ? // Whether it answers, not who it is: the registry's client checks that.
          httpsGet(url, { timeout, agent: false, rejectUnauthorized: false })
        : httpGet(url, { timeout, agent: false })
    request.on('response', response => {
      response.resume()
      resolve(response.statusCode === 200 ? 'healthy' : 'present')
    })
    request.on('timeout', () => {
      resolve(request.socket?.connecting === false ? 'present' : 'absent')
      request.destroy()
    })
    request.on('error', (error: NodeJS.ErrnoException) => {
      const isAbsent = error.syscall === 'connect' || error.code === 'ECONNREFUSED'
      resolve(isAbsent ? 'absent' : 'present')
    })
  })
}

class EtcdChild {
  /** Why it ended or could not start; undefined while it runs. */
  failure: string | undefined
  readonly #child: ChildProcess
  readonly #ended: Promise<void>
  #closing = false

  constructor(args: readonly string[], log: Logger) {
    const lastWords: string[] = []
    this.#child = spawn('setpriv', ['--pdeathsig', 'TERM', '--', 'etcd', ...args], {
      // etcd reads ETCD_* variables; only its path is its business.
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
      stdio: ['ignore', 'ignore', 'pipe'],
      // Ctrl-C reaches the whole foreground group; we stop etcd ourselves, last.
      detached: true,
    })
    if (this.#child.stderr !== null) {
      createInterface({ input: this.#child.stderr }).on('line', line => {
        lastWords.push(readLogLine(line))
        if (lastWords.length > LAST_LINES) lastWords.shift()
        log.debug({ line }, 'etcd')
      })
    }
    this.#ended = new Promise(resolve => {
      this.#child.on('error', error => {
        this.failure = `cannot start etcd: ${error.message}`
        resolve()
      })
      this.#child.on('close', exitCode => {
        this.failure =
          exitCode === EXIT_NOT_FOUND
            ? 'the program etcd is not installed: apt-get install etcd-server'
            : `etcd ended: ${[...new Set(lastWords)].join('; ')}`
        resolve()
      })
    })
  }

  /** @param report called when it ends without having been closed. */
  onLoss(report: (reason: string) => void): void {
    void this.#ended.then(() => {
      if (!this.#closing) report(this.failure ?? '')
    })
  }

  async close(): Promise<void> {
    this.#closing = true
    this.#child.kill('SIGTERM')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await this.#ended
    clearTimeout(timer)
  }
}

/** What a line of etcd's log says, without its ornaments. */
function readLogLine(line: string): string {
  try {
    const { msg, error } = JSON.parse(line) as { msg?: string; error?: string }
    return error ?? msg ?? line
  } catch {
    return line
  }
}

function etcdArguments({ listen, dataDir, tls }: EmbeddedEtcdOptions): string[] {
  const advertised = localEndpoint(listen).origin
  // A single member talks to no peer, but etcd wants an address to do it on: any port.
  const peer = 'http://127.0.0.1:0'
  return [
    '--name=embedded',
    `--data-dir=${dataDir}`,
    `--listen-client-urls=${listen.origin}`,
    `--advertise-client-urls=${advertised}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=embedded=${peer}`,
    '--auto-compaction-mode=periodic',
    '--auto-compaction-retention=1h',
    '--log-level=warn',
    '--logger=zap',
    ...(tls ? [`--cert-file=${tls.certFile}`, `--key-file=${tls.keyFile}`] : []),
  ]
}
