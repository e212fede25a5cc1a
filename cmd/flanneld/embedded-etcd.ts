import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Logger } from 'pino'
import type { DaemonContext, DaemonFlags } from './daemon.js'
import { UsageError } from './parse-flags.js'
import type { Places } from './places.js'

/** etcd makes its files and elects itself in about a second. */
const START_TIMEOUT_MS = 15_000
const POLL_MS = 50
const STOP_TIMEOUT_MS = 5000

/** Lines of etcd's own that are shown when it fails. */
const LAST_LINES = 5

/**
 * Runs Debian's etcd as a child for a first, single host. Returns its endpoint,
 * or undefined when none is asked for. Throws UsageError for a listener that
 * would let strangers write to the network's registry.
 */
export async function startEmbeddedEtcd(
  flags: DaemonFlags,
  places: Places,
  {
    cleanup,
    clock,
    log,
    stop,
  }: Pick<DaemonContext, 'cleanup' | 'clock' | 'log' | 'stop'>,
): Promise<string | undefined> {
  if (!flags['embedded-etcd']) return undefined
  const listen = checkListen(flags, log)
  if (await accepts(listen)) {
    throw new Error(
      `something listens on ${listen.host} already; to use an etcd that runs there pass --etcd-endpoints=${listen.origin} without --embedded-etcd, else choose another --embedded-etcd-listen`,
    )
  }
  const dataDir = flags['embedded-etcd-data-dir'] || join(places.stateDir, 'etcd')
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const etcd = new EtcdChild(listen, dataDir, flags, log)
  cleanup.push(() => etcd.close())
  const deadline = clock.now() + START_TIMEOUT_MS
  while (!(await accepts(listen))) {
    if (etcd.failure !== undefined) throw new Error(etcd.failure)
    if (stop.aborted) return listen.origin
    if (clock.now() > deadline) throw new Error(`etcd does not listen on ${listen.host}`)
    await clock.sleep(POLL_MS, stop)
  }
  log.info({ endpoint: listen.origin, dataDir }, 'embedded etcd runs')
  return listen.origin
}

function checkListen(flags: DaemonFlags, log: Logger): URL {
  const text = flags['embedded-etcd-listen']
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.port === '') {
    throw new UsageError(
      `--embedded-etcd-listen is ${JSON.stringify(text)}; it takes an URL such as http://127.0.0.1:2379`,
    )
  }
  const secure = url.protocol === 'https:'
  if (
    secure &&
    (flags['embedded-etcd-certfile'] === '' || flags['embedded-etcd-keyfile'] === '')
  ) {
    throw new UsageError(
      'an https --embedded-etcd-listen needs --embedded-etcd-certfile and --embedded-etcd-keyfile',
    )
  }
  if (!secure && !isLoopback(url)) {
    if (!flags['embedded-etcd-insecure']) {
      throw new UsageError(
        `--embedded-etcd-listen ${text} would let anybody who reaches ${url.hostname} rule the network; use https, or --embedded-etcd-insecure if you mean it`,
      )
    }
    log.warn(
      { listen: text },
      'the embedded etcd is open to everybody who reaches this address',
    )
  }
  return url
}

function isLoopback({ hostname }: URL): boolean {
  return /^(127(\.\d+){3}|\[::1\]|localhost)$/.test(hostname)
}

async function accepts({ hostname, port }: URL): Promise<boolean> {
  const socket = createConnection({
    host: hostname.replace(/^\[|\]$/g, ''),
    port: Number(port),
  })
  return await new Promise(resolve => {
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => {
      resolve(false)
    })
  })
}

class EtcdChild {
  /** Why it ended or could not start; undefined while it runs. */
  failure: string | undefined
  readonly #child: ChildProcess
  readonly #ended: Promise<void>

  constructor(listen: URL, dataDir: string, flags: DaemonFlags, log: Logger) {
    const lines: string[] = []
    this.#child = spawn(
      'setpriv',
      ['--pdeathsig', 'TERM', '--', 'etcd', ...etcdArguments(listen, dataDir, flags)],
      {
        // etcd reads ETCD_* variables; only its path is its business.
        env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
        stdio: ['ignore', 'ignore', 'pipe'],
        // Ctrl-C reaches the whole foreground group; we stop etcd ourselves, last.
        detached: true,
      },
    )
    if (this.#child.stderr !== null) {
      createInterface({ input: this.#child.stderr }).on('line', line => {
        lines.push(line)
        if (lines.length > LAST_LINES) lines.shift()
        log.debug({ line }, 'etcd')
      })
    }
    this.#ended = new Promise(resolve => {
      this.#child.on('error', error => {
        this.failure = `cannot start etcd: ${error.message}`
        resolve()
      })
      this.#child.on('close', exitCode => {
        this.failure = lines.some(line => line.includes('No such file or directory'))
          ? 'the program etcd is not installed; install the package etcd-server'
          : `etcd ended with exit code ${exitCode ?? 'none'}: ${lines.join(' | ')}`
        resolve()
      })
    })
  }

  async close(): Promise<void> {
    this.#child.kill('SIGTERM')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await this.#ended
    clearTimeout(timer)
  }
}

function etcdArguments(listen: URL, dataDir: string, flags: DaemonFlags): string[] {
  // A single member talks to no peer, but etcd wants an address to do it on.
  const peer = `http://127.0.0.1:${Number(listen.port) + 1}`
  return [
    '--name=embedded',
    `--data-dir=${dataDir}`,
    `--listen-client-urls=${listen.origin}`,
    `--advertise-client-urls=${listen.origin}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=embedded=${peer}`,
    '--auto-compaction-mode=periodic',
    '--auto-compaction-retention=1h',
    '--log-level=warn',
    '--logger=zap',
    ...(listen.protocol === 'https:'
      ? [
          `--cert-file=${flags['embedded-etcd-certfile']}`,
          `--key-file=${flags['embedded-etcd-keyfile']}`,
        ]
      : []),
  ]
}
