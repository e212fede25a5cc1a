import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseVariables } from '../../../lib/subnet/subnet-env.js'
import { type DaemonStatus, type StatusFlags, askDaemon } from '../daemon-status.js'
import { mountsOfHost, withMounts } from './namespaces.js'
import { type Exit, LabProcess, lastLine } from './process.js'
import { DEFAULT_PREFIX, ETCD_ENDPOINT } from './topology.js'
import { until } from './until.js'

const PROGRAM = fileURLToPath(new URL('../../flanneld.js', import.meta.url))

/** A host is ready in about a second; three of them on two busy cores take longer. */
const READY_DEADLINE_MS = 40_000

export interface LabDaemonOptions {
  readonly namespace: string
  /** The host's directory. */
  readonly directory: string
  readonly outlive: boolean
  readonly etcdPrefix?: string
  /** Name of the subnet file in the host's directory. */
  readonly subnetFile?: string
  /** Further flags of flanneld. */
  readonly flags?: readonly string[]
}

/** A real flanneld on a host of the lab, started as an operator would. */
export class LabDaemon {
  readonly subnetFile: string
  readonly logFile: string
  /** What is run at the next start. */
  program = PROGRAM
  /** What it is started through, such as setpriv(1) with its options. */
  through: readonly string[] = []
  readonly #options: LabDaemonOptions
  readonly #flags: StatusFlags
  #process: LabProcess | undefined

  constructor(options: LabDaemonOptions) {
    const { directory, etcdPrefix = DEFAULT_PREFIX, subnetFile = 'subnet.env' } = options
    this.#options = options
    this.subnetFile = join(directory, subnetFile)
    this.logFile = `${this.subnetFile.replace(/\.env$/, '')}.log`
    this.#flags = {
      'etcd-prefix': etcdPrefix,
      'subnet-file': this.subnetFile,
      'state-dir': join(directory, 'state'),
      'run-dir': join(directory, 'run'),
    }
  }

  /** The flags that tell flannelctl where this daemon is. */
  get placeFlags(): string[] {
    return Object.entries(this.#flags).map(([name, value]) => `--${name}=${value}`)
  }

  get pid(): number {
    return this.#running().pid
  }

  /** Resolves once it is ready. @param more flags of this start alone. */
  async start(signal?: AbortSignal, more: readonly string[] = []): Promise<void> {
    this.launch(more)
    await this.ready(signal)
  }

  /** Starts it without waiting: what it says while it waits is a test's business. */
  launch(more: readonly string[] = []): void {
    const { namespace, outlive, directory, flags = [] } = this.#options
    const given = [...flags, ...more]
    // Those that are given are tried in order: ours would be the first.
    const usual = ['--iface=eth0', `--etcd-endpoints=${ETCD_ENDPOINT}`].filter(
      flag =>
        !given.some(other => other.startsWith(flag.slice(0, flag.indexOf('=') + 1))),
    )
    const command = withMounts(mountsOfHost(directory), [
      ...this.through,
      process.execPath,
      this.program,
      ...usual,
      ...this.placeFlags,
      ...given,
    ])
    this.#process = new LabProcess({ namespace, command, log: this.logFile, outlive })
  }

  async ready(signal?: AbortSignal): Promise<void> {
    await this.#becomes('gets ready', ({ phase }) => phase === 'ready', signal)
  }

  /** Resolves once packets to that many other hosts have a way. */
  async knows(others: number, signal?: AbortSignal): Promise<void> {
    const isSo = ({ remotes = [] }: DaemonStatus): boolean => remotes.length >= others
    await this.#becomes(`meets ${others} others`, isSo, signal)
  }

  async #becomes(
    what: string,
    isSo: (status: DaemonStatus) => boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    const started = this.#running()
    const name = `flanneld in ${this.#options.namespace}`
    const check = async (): Promise<true | undefined> => {
      if (started.exit !== undefined)
        throw new Error(`${name} ended: ${await lastLine(this.logFile)}`)
      const status = await this.status().catch(() => undefined)
      return status?.pid === started.pid && isSo(status) ? true : undefined
    }
    await until(`${name} ${what} (see ${this.logFile})`, READY_DEADLINE_MS, check, signal)
  }

  /** SIGTERM leaves the packet path running, SIGINT ends it, SIGKILL lets it say nothing. */
  async kill(signal: NodeJS.Signals): Promise<Exit> {
    return await this.#running().end(signal)
  }

  /** Ends it without a word; its packet path goes on. */
  async close(): Promise<void> {
    await this.#process?.end('SIGKILL')
  }

  /** What it says about itself on its status socket. Rejects when nobody answers. */
  async status(): Promise<DaemonStatus> {
    const status = await askDaemon(this.#flags)
    if (status === undefined)
      throw new Error(`no flanneld runs in ${this.#options.namespace}`)
    return status
  }

  /** The variables that it wrote for the container runtime. */
  async environment(): Promise<ReadonlyMap<string, string>> {
    return parseVariables(await readFile(this.subnetFile, 'utf8'))
  }

  #running(): LabProcess {
    if (this.#process === undefined) throw new Error('this flanneld was never started')
    return this.#process
  }
}
