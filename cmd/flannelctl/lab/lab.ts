import type { FileLock } from '../../../lib/linux/file-lock.js'
import { CommandFailure } from '../command.js'
import { LabEtcd } from './etcd.js'
import { LabHost } from './host.js'
import { ipInside, makeNamespaces } from './namespaces.js'
import {
  DEFAULT_RUN_DIR,
  type LabPlace,
  type LabRecord,
  clearLab,
  lockLab,
  placeOfLab,
  readRecord,
  removeLab,
  writeRecord,
} from './record.js'
import { checkRequirements } from './requirements.js'
import {
  DEFAULT_HOSTS,
  DEFAULT_NAME,
  DEFAULT_NETWORK,
  DEFAULT_PREFIX,
  ETCD_ADDRESS,
  MAX_HOSTS,
  containerNamespace,
  hostNamespace,
  namespacesOf,
  refuseNetwork,
  underlayNamespace,
} from './topology.js'

export interface LabOptions {
  readonly name?: string
  readonly hosts?: number
  readonly network?: string
  /** `Backend` of the stored configuration. */
  readonly backend?: Readonly<Record<string, unknown>>
  readonly runDir?: string
  /** Of the daemons, besides the usual. */
  readonly flags?: readonly string[]
  /** `up` leaves the lab running when this process ends. */
  readonly kind?: LabRecord['kind']
  readonly signal?: AbortSignal
}

/**
 * A network of hosts on this machine, with a real etcd and real daemons. What is
 * made is written down first, so that `close`, or `flannelctl lab down` after a
 * crash, removes all of it.
 */
export class Lab {
  readonly name: string
  readonly network: string
  readonly etcd: LabEtcd
  readonly hosts: LabHost[] = []
  readonly #place: LabPlace
  readonly #kind: LabRecord['kind']
  readonly #flags: readonly string[]
  readonly #backend: LabOptions['backend']
  readonly #signal: AbortSignal | undefined
  readonly #lock: FileLock

  private constructor(place: LabPlace, lock: FileLock, options: LabOptions) {
    this.name = place.name
    this.network = options.network ?? DEFAULT_NETWORK
    this.#place = place
    this.#lock = lock
    this.#kind = options.kind ?? 'run'
    this.#flags = options.flags ?? []
    this.#backend = options.backend
    this.#signal = options.signal
    this.etcd = new LabEtcd({
      namespace: underlayNamespace(place.name),
      directory: place.directory,
      outlive: this.#kind === 'up',
    })
  }

  /** Lays the underlay, without hosts and etcd. Removes what a crashed run of the same name left. */
  static async make(options: LabOptions): Promise<Lab> {
    const place = placeOfLab(
      options.runDir ?? DEFAULT_RUN_DIR,
      options.name ?? DEFAULT_NAME,
    )
    const lock = await lockLab(place)
    try {
      if ((await readRecord(place))?.kind === 'up') {
        throw new CommandFailure(
          `lab ${place.name} is up already; flannelctl lab down --name ${place.name} removes it, --name makes another`,
        )
      }
      await clearLab(place)
    } catch (error) {
      lock.release()
      throw error
    }
    const lab = new Lab(place, lock, options)
    try {
      await lab.#layUnderlay(options.hosts ?? DEFAULT_HOSTS)
    } catch (error) {
      await lab.close()
      throw error
    }
    return lab
  }

  async #layUnderlay(hosts: number): Promise<void> {
    await this.#write(hosts)
    await makeNamespaces(namespacesOf(this.name, hosts))
    await ipInside(underlayNamespace(this.name), [
      'link set lo up',
      'link add br0 type bridge',
      `address add ${ETCD_ADDRESS}/24 dev br0`,
      'link set br0 up',
    ])
    for (let number = 1; number <= hosts; number++) await this.#plugHost(number)
  }

  async #write(hosts: number): Promise<void> {
    const { network } = this
    await writeRecord(this.#place, { kind: this.#kind, network, hosts })
  }

  async #plugHost(number: number): Promise<LabHost> {
    this.#signal?.throwIfAborted()
    const { directory } = this.#place
    const host = await LabHost.make({
      lab: this.name,
      number,
      directory,
      outlive: this.#kind === 'up',
      flags: this.#flags,
    })
    this.hosts.push(host)
    return host
  }

  /** Starts etcd and stores the network's configuration. */
  async startEtcd(prefix = DEFAULT_PREFIX, network = this.network): Promise<void> {
    await this.etcd.start(this.#signal)
    const config = { Network: network, Backend: this.#backend }
    await this.etcd.ctl('put', `${prefix}/config`, JSON.stringify(config))
  }

  /** Starts the daemons of all hosts at once, gives each host its container, and lets all hosts meet. */
  async startHosts(): Promise<void> {
    await Promise.all(this.hosts.map(host => host.daemon.start(this.#signal)))
    await Promise.all(this.hosts.map(host => host.makeContainer()))
    const others = this.hosts.length - 1
    await Promise.all(this.hosts.map(host => host.daemon.knows(others, this.#signal)))
  }

  /** Adds a host to the running network, with its daemon and container. @param flags of the daemon besides the usual. */
  async addHost(flags: readonly string[] = []): Promise<LabHost> {
    const number = this.hosts.length + 1
    await this.#write(number)
    await makeNamespaces([
      hostNamespace(this.name, number),
      containerNamespace(this.name, number),
    ])
    const host = await this.#plugHost(number)
    await host.daemon.start(this.#signal, flags)
    await host.makeContainer()
    return host
  }

  /** The host with a number as people count: from 1. */
  host(number: number): LabHost {
    const host = this.hosts[number - 1]
    if (host === undefined) throw new RangeError(`the lab has no host ${number}`)
    return host
  }

  /** Lets go of a lab that is to stay. */
  leave(): void {
    this.#lock.release()
  }

  /** Removes every trace of the lab. */
  async close(): Promise<void> {
    // One that is just starting is in no namespace yet: it is ended by its own number.
    await Promise.all([this.etcd.close(), ...this.hosts.map(host => host.close())])
    await removeLab(this.#place)
    this.#lock.release()
  }
}

/** Builds a lab with everything running. Whatever fails, nothing is left behind. */
export async function openLab(options: LabOptions = {}): Promise<Lab> {
  await checkLabOptions(options)
  const lab = await Lab.make(options)
  try {
    await lab.startEtcd()
    await lab.startHosts()
  } catch (error) {
    await lab.close()
    throw error
  }
  return lab
}

/** Throws CommandFailure when this machine or these options will not do. */
export async function checkLabOptions({ hosts, network }: LabOptions): Promise<void> {
  if (
    hosts !== undefined &&
    !(Number.isInteger(hosts) && hosts >= 1 && hosts <= MAX_HOSTS)
  )
    throw new CommandFailure(`--hosts takes a number from 1 to ${MAX_HOSTS}`)
  const refusal = network === undefined ? undefined : refuseNetwork(network)
  if (network !== undefined && refusal !== undefined)
    throw new CommandFailure(`--network ${network}: ${refusal}`)
  await checkRequirements()
}
