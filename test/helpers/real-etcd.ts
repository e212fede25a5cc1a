import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { waitFor } from './wait-for.js'

/** etcd is healthy after a second. */
const START_TIMEOUT_MS = 60_000
const POLL_MS = 50

export interface RealEtcdOptions {
  /** Paths of certificate and key of the server, which speaks https then. */
  readonly tls?: { readonly cert: string; readonly key: string }
  /** More flags of etcd. */
  readonly flags?: readonly string[]
}

/** A server of Debian's etcd on loopback, with ports and data of its own. */
export class RealEtcd {
  readonly port: number
  readonly #peerPort: number
  readonly #metricsPort: number
  readonly #directory: string
  readonly #options: RealEtcdOptions
  #child: ChildProcess | undefined
  #output = ''

  private constructor(
    directory: string,
    ports: readonly [number, number, number],
    options: RealEtcdOptions,
  ) {
    this.#directory = directory
    ;[this.port, this.#peerPort, this.#metricsPort] = ports
    this.#options = options
  }

  static async open(options: RealEtcdOptions = {}): Promise<RealEtcd> {
    const directory = await mkdtemp(join(tmpdir(), 'flanneld-etcd-'))
    const ports = [await freePort(), await freePort(), await freePort()] as const
    const etcd = new RealEtcd(directory, [...ports], options)
    try {
      await etcd.start()
    } catch (error) {
      await etcd.close()
      throw error
    }
    return etcd
  }

  get endpoint(): string {
    const scheme = this.#options.tls ? 'https' : 'http'
    return `${scheme}://127.0.0.1:${this.port}`
  }

  /** Resolves when the server is healthy. */
  async start(): Promise<void> {
    const peer = `http://127.0.0.1:${this.#peerPort}`
    const { tls, flags = [] } = this.#options
    const options = [
      ['--name', 'test'],
      ['--data-dir', this.#data],
      ['--listen-client-urls', this.endpoint],
      ['--advertise-client-urls', this.endpoint],
      ['--listen-peer-urls', peer],
      ['--initial-advertise-peer-urls', peer],
      ['--initial-cluster', `test=${peer}`],
      ['--listen-metrics-urls', this.#metricsUrl],
      tls ? ['--cert-file', tls.cert, '--key-file', tls.key] : [],
      flags,
    ].flat()
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'etcd', ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'] },
    })
    this.#child = child
    this.#output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (this.#output += chunk.toString()))
    }
    const deadline = Date.now() + START_TIMEOUT_MS
    while (!(await this.#isHealthy())) {
      if (child.exitCode !== null || Date.now() > deadline) {
        throw new Error(`etcd does not start:\n${this.#output.slice(-2000)}`)
      }
      await delay(POLL_MS)
    }
  }

  /** Plain HTTP and open to everybody, whatever clients need. */
  get #metricsUrl(): string {
    return `http://127.0.0.1:${this.#metricsPort}`
  }

  async #isHealthy(): Promise<boolean> {
    try {
      const answer = await fetch(`${this.#metricsUrl}/health`)
      return ((await answer.json()) as { health: string }).health === 'true'
    } catch {
      return false
    }
  }

  /** Stops it without breaking a connection, until `thaw`. Resolves when no thread of it runs any more. */
  async freeze(): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    const { pid } = child
    child.kill('SIGSTOP')
    await waitFor('etcd to stand still', () => isStopped(pid) || undefined)
  }

  thaw(): void {
    this.#child?.kill('SIGCONT')
  }

  /** Ends it as a power failure does. */
  async kill(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child?.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }

  /** Kills it and takes its data away. */
  async wipe(): Promise<void> {
    await this.kill()
    await rm(this.#data, { recursive: true, force: true })
  }

  /** Everything it holds, in a file as `etcdctl snapshot save` makes it. */
  backup(): string {
    const file = join(this.#directory, `backup-${Date.now()}`)
    etcdctl(`--endpoints=${this.endpoint}`, 'snapshot', 'save', file)
    return file
  }

  /** Goes back to a backup, as an operator does it, and runs again. */
  async restore(file: string): Promise<void> {
    await this.wipe()
    const peer = `http://127.0.0.1:${this.#peerPort}`
    etcdctl(
      ...['snapshot', 'restore', file, '--name=test', `--initial-cluster=test=${peer}`],
      ...[`--initial-advertise-peer-urls=${peer}`, `--data-dir=${this.#data}`],
    )
    await this.start()
  }

  get #data(): string {
    return join(this.#directory, 'data')
  }

  async close(): Promise<void> {
    await this.kill()
    await rm(this.#directory, { recursive: true, force: true })
  }
}

/**
 * True when the kernel has stopped every thread of a process: SIGSTOP reaches one after
 * the other. Throws when one ends meanwhile.
 */
function isStopped(pid: number): boolean {
  const tasks = `/proc/${pid}/task`
  return readdirSync(tasks).every(task =>
    /^State:\tT/m.test(readFileSync(`${tasks}/${task}/status`, 'utf8')),
  )
}

function etcdctl(...args: readonly string[]): void {
  const env = { PATH: process.env['PATH'], ...ETCDCTL_ENVIRONMENT }
  execFileSync('etcdctl', args, { env, stdio: 'pipe' })
}

/** A port that nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
