import { join } from 'node:path'
import { runInside } from './namespaces.js'
import { LabProcess, lastLine } from './process.js'
import { ETCD_ENDPOINT } from './topology.js'
import { until } from './until.js'

const START_DEADLINE_MS = 30_000

export interface LabEtcdOptions {
  readonly namespace: string
  readonly directory: string
  readonly outlive: boolean
}

/** Of etcdctl(1), whose own two and five seconds are too short for a busy machine. */
export const ETCDCTL_ENVIRONMENT = {
  ETCDCTL_API: '3',
  ETCDCTL_DIAL_TIMEOUT: '20s',
  ETCDCTL_COMMAND_TIMEOUT: '40s',
}

/** The one etcd of a lab. Its data stay when it is stopped, as a real one's do. */
export class LabEtcd {
  readonly #options: LabEtcdOptions
  #process: LabProcess | undefined

  constructor(options: LabEtcdOptions) {
    this.#options = options
  }

  /** Resolves once it answers. */
  async start(signal?: AbortSignal): Promise<void> {
    const { namespace, directory, outlive } = this.#options
    const log = join(directory, 'etcd.log')
    const command = ['etcd', ...etcdArguments(join(directory, 'etcd'))]
    const etcd = new LabProcess({ namespace, command, log, outlive })
    this.#process = etcd
    const answers = async (): Promise<true | undefined> => {
      if (etcd.exit !== undefined)
        throw new Error(`etcd does not start: ${await lastLine(log)}`)
      // Whoever interrupts the lab is not kept waiting.
      const environment = { ...ETCDCTL_ENVIRONMENT, ETCDCTL_COMMAND_TIMEOUT: '2s' }
      return await this.#run(['endpoint', 'health'], environment).then(
        () => true,
        () => undefined,
      )
    }
    await until('etcd answers', START_DEADLINE_MS, answers, signal)
  }

  async stop(): Promise<void> {
    await this.#process?.end('SIGTERM')
  }

  /** Ends it without a word. */
  async close(): Promise<void> {
    await this.#process?.end('SIGKILL')
  }

  /** Runs etcdctl against it and resolves with what it prints. Throws CommandError. */
  async ctl(...args: readonly string[]): Promise<string> {
    return await this.#run(args, ETCDCTL_ENVIRONMENT)
  }

  async #run(
    args: readonly string[],
    environment: Readonly<Record<string, string>>,
  ): Promise<string> {
    const command = ['etcdctl', `--endpoints=${ETCD_ENDPOINT}`, ...args]
    return await runInside(this.#options.namespace, command, { environment })
  }
}

function etcdArguments(dataDirectory: string): string[] {
  // A single member talks to no peer, but etcd wants an address to do it on.
  const peer = 'http://127.0.0.1:2380'
  return [
    '--name=lab',
    `--data-dir=${dataDirectory}`,
    `--listen-client-urls=${ETCD_ENDPOINT}`,
    `--advertise-client-urls=${ETCD_ENDPOINT}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=lab=${peer}`,
    // It elects itself: nobody has to be waited for.
    '--heartbeat-interval=20',
    '--election-timeout=100',
    '--log-level=warn',
    '--logger=zap',
  ]
}
