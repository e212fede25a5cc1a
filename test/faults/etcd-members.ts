import { mkdir, rm } from 'node:fs/promises'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { join } from 'node:path'
import { runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { waitFor } from '../helpers/wait-for.js'

const SUBNET = '192.168.77'

/** An etcd of one or three members, on addresses of their own in one network namespace. */
export class EtcdMembers {
  readonly #namespace: string
  readonly #directory: string
  readonly #processes: (LabProcess | undefined)[]
  /** Of the cluster: another after each wipe. */
  #token = 0

  /** @param namespace that has 192.168.77.1 and, for three, .2 and .3. */
  constructor(namespace: string, directory: string, size: 1 | 3) {
    this.#namespace = namespace
    this.#directory = directory
    this.#processes = Array.from({ length: size }, () => undefined)
  }

  get size(): number {
    return this.#processes.length
  }

  get endpoints(): string[] {
    return this.#numbers.map(number => `http://${addressOf(number)}:2379`)
  }

  get #numbers(): number[] {
    return [...this.#processes.keys()]
  }

  /** Starts the members that do not run, with what they have; answers when this resolves. */
  async start(): Promise<void> {
    for (const number of this.#numbers) {
      if (this.#processes[number] === undefined) this.#startMember(number)
    }
    await waitFor('etcd answers', async () => this.ctl('endpoint', 'health', '--cluster'))
  }

  async kill(...numbers: readonly number[]): Promise<void> {
    await Promise.all(
      numbers.map(async number => {
        const process = this.#processes[number]
        this.#processes[number] = undefined
        await process?.end('SIGKILL')
      }),
    )
  }

  async killAll(): Promise<void> {
    await this.kill(...this.#numbers)
  }

  /** Loses everything that it ever knew. */
  async wipe(): Promise<void> {
    await this.killAll()
    await rm(join(this.#directory, 'data'), { recursive: true, force: true })
    this.#token += 1
  }

  /** The file of a backup of what it knows now. */
  async backUp(): Promise<string> {
    const file = join(this.#directory, 'backup')
    await rm(file, { force: true })
    const [endpoint = ''] = this.endpoints
    await this.#etcdctl([`--endpoints=${endpoint}`, 'snapshot', 'save', file])
    return file
  }

  /** Puts a backup in the place of what it knows. Start it afterwards. */
  async restore(file: string): Promise<void> {
    await this.wipe()
    await mkdir(join(this.#directory, 'data'))
    for (const number of this.#numbers)
      await this.#etcdctl(['snapshot', 'restore', file, ...this.#identity(number)])
  }

  /** Runs etcdctl against the members that run and resolves with what it prints. Throws CommandError. */
  async ctl(...args: readonly string[]): Promise<string> {
    const endpoints = this.endpoints.filter((_, number) => this.#processes[number])
    return await this.#etcdctl([`--endpoints=${endpoints.join(',')}`, ...args])
  }

  async #etcdctl(args: readonly string[]): Promise<string> {
    return await runInside(this.#namespace, ['etcdctl', ...args], {
      environment: ETCDCTL_ENVIRONMENT,
    })
  }

  #startMember(number: number): void {
    const client = `http://${addressOf(number)}:2379`
    this.#processes[number] = new LabProcess({
      namespace: this.#namespace,
      command: [
        'etcd',
        ...this.#identity(number),
        `--listen-client-urls=${client}`,
        `--advertise-client-urls=${client}`,
        `--listen-peer-urls=${peerUrl(number)}`,
      ],
      log: join(this.#directory, `etcd${number}.log`),
      outlive: false,
    })
  }

  #identity(number: number): string[] {
    const cluster = this.#numbers.map(each => `m${each}=${peerUrl(each)}`).join(',')
    return [
      `--name=m${number}`,
      `--data-dir=${join(this.#directory, 'data', String(number))}`,
      `--initial-advertise-peer-urls=${peerUrl(number)}`,
      `--initial-cluster=${cluster}`,
      `--initial-cluster-token=t${this.#token}`,
    ]
  }
}

function addressOf(number: number): string {
  return `${SUBNET}.${number + 1}`
}

function peerUrl(number: number): string {
  return `http://${addressOf(number)}:2380`
}
