import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** etcd is healthy after a second; a busy machine may take ten times as long. */
const START_TIMEOUT_MS = 20_000
const POLL_MS = 50

/** A server of Debian's etcd on loopback, with ports and data of its own. */
export class RealEtcd {
  readonly port: number
  readonly #peerPort: number
  readonly #directory: string
  #child: ChildProcess | undefined
  #output = ''

  private constructor(directory: string, ports: readonly [number, number]) {
    this.#directory = directory
    this.port = ports[0]
    this.#peerPort = ports[1]
  }

  static async open(): Promise<RealEtcd> {
    const directory = await mkdtemp(join(tmpdir(), 'flanneld-etcd-'))
    const etcd = new RealEtcd(directory, [await freePort(), await freePort()])
    try {
      await etcd.start()
    } catch (error) {
      await etcd.close()
      throw error
    }
    return etcd
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** Resolves when the server is healthy. */
  async start(): Promise<void> {
    const peer = `http://127.0.0.1:${this.#peerPort}`
    const options = [
      ['--name', 'test'],
      ['--data-dir', join(this.#directory, 'data')],
      ['--listen-client-urls', this.endpoint],
      ['--advertise-client-urls', this.endpoint],
      ['--listen-peer-urls', peer],
      ['--initial-advertise-peer-urls', peer],
      ['--initial-cluster', `test=${peer}`],
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

  async #isHealthy(): Promise<boolean> {
    try {
      const answer = await fetch(`${this.endpoint}/health`)
      return ((await answer.json()) as { health: string }).health === 'true'
    } catch {
      return false
    }
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
    await rm(join(this.#directory, 'data'), { recursive: true, force: true })
  }

  async close(): Promise<void> {
    await this.kill()
    await rm(this.#directory, { recursive: true, force: true })
  }
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
