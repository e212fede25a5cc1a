import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { RunOptions } from '../../../lib/linux/run.js'
import { LabDaemon, type LabDaemonOptions } from './daemon.js'
import {
  ipInside,
  killInside,
  mountsOfHost,
  runInside,
  withMounts,
} from './namespaces.js'
import { type PingOptions, type PingResult, ping } from './ping.js'
import {
  type ContainerAddresses,
  containerAddresses,
  containerNamespace,
  hostAddress,
  hostNamespace,
  underlayNamespace,
} from './topology.js'

/** A place to run commands in: a host or a container. */
export class LabNode {
  readonly namespace: string

  constructor(namespace: string) {
    this.namespace = namespace
  }

  /** Resolves with what the command prints. Throws CommandError. */
  async run(command: readonly string[], options?: RunOptions): Promise<string> {
    return await runInside(this.namespace, command, options)
  }

  async ping(targets: readonly string[], options?: PingOptions): Promise<PingResult[]> {
    return await ping(this.namespace, targets, options)
  }
}

export class LabContainer extends LabNode {
  readonly name: string
  readonly address: string
  readonly mtu: number

  constructor(namespace: string, address: string, mtu: number) {
    super(namespace)
    this.name = namespace.slice(namespace.lastIndexOf('-') + 1)
    this.address = address
    this.mtu = mtu
  }
}

export interface LabHostOptions {
  readonly lab: string
  /** Hosts count from 1. */
  readonly number: number
  /** The lab's directory. */
  readonly directory: string
  readonly outlive: boolean
  /** Of its daemons. */
  readonly flags: readonly string[]
}

export class LabHost extends LabNode {
  readonly name: string
  readonly address: string
  readonly daemon: LabDaemon
  readonly #options: LabHostOptions
  readonly #directory: string
  readonly #daemons: LabDaemon[] = []
  #container: LabContainer | undefined

  private constructor(options: LabHostOptions) {
    super(hostNamespace(options.lab, options.number))
    this.#options = options
    this.name = `host${options.number}`
    this.address = hostAddress(options.number)
    this.#directory = join(options.directory, this.name)
    this.daemon = this.openDaemon()
  }

  /** Plugs a host, whose namespaces exist, into the underlay. */
  static async make(options: LabHostOptions): Promise<LabHost> {
    const host = new LabHost(options)
    const { name, namespace, address } = host
    await mkdir(host.#directory, { recursive: true, mode: 0o700 })
    await ipInside(underlayNamespace(options.lab), [
      `link add ${name} type veth peer name eth0 netns ${namespace}`,
      `link set ${name} master br0 up`,
    ])
    await ipInside(namespace, [
      'link set lo up',
      `address add ${address}/24 dev eth0`,
      'link set eth0 up',
    ])
    // What Docker sets, since a host with containers is a router.
    await host.run(['sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
    return host
  }

  override async run(command: readonly string[], options?: RunOptions): Promise<string> {
    return await super.run(withMounts(mountsOfHost(this.#directory), command), options)
  }

  /** Another daemon of the same host, with a prefix and a subnet file of its own. */
  openDaemon(
    options: Pick<LabDaemonOptions, 'etcdPrefix' | 'subnetFile' | 'flags'> = {},
  ): LabDaemon {
    const { outlive, flags } = this.#options
    const { namespace } = this
    const directory = this.#directory
    const daemon = new LabDaemon({ namespace, directory, outlive, flags, ...options })
    this.#daemons.push(daemon)
    return daemon
  }

  /** Ends its daemons; the rest goes with the namespace. */
  async close(): Promise<void> {
    await Promise.all(this.#daemons.map(daemon => daemon.close()))
  }

  get container(): LabContainer {
    if (this.#container === undefined) throw new Error(`${this.name} has no container`)
    return this.#container
  }

  /** Pulls the plug: every process dies at once, and the network cable is out. */
  async powerOff(): Promise<void> {
    const { lab, number } = this.#options
    await ipInside(underlayNamespace(lab), [`link set ${this.name} down`])
    await killInside([this.namespace, containerNamespace(lab, number)])
  }

  /** Gives the host its bridge and its container, as Docker does with what subnet.env says. */
  async makeContainer(): Promise<LabContainer> {
    const namespace = containerNamespace(this.#options.lab, this.#options.number)
    this.#container = await this.attachContainer(namespace, 'docker0', this.daemon)
    return this.#container
  }

  /** Joins an empty namespace to the subnet of one of the host's daemons, behind a bridge. */
  async attachContainer(
    namespace: string,
    bridge: string,
    daemon: LabDaemon,
  ): Promise<LabContainer> {
    const environment = await daemon.environment()
    const mtu = Number(environment.get('FLANNEL_MTU'))
    const addresses = containerAddresses(environment.get('FLANNEL_SUBNET') ?? '')
    await ipInside(this.namespace, hostSide(namespace, bridge, addresses, mtu))
    await ipInside(namespace, [
      'link set lo up',
      `address add ${addresses.container}/${addresses.length} dev eth0`,
      `link set eth0 mtu ${mtu} up`,
      `route add default via ${addresses.gateway}`,
    ])
    return new LabContainer(namespace, addresses.container, mtu)
  }
}

function hostSide(
  namespace: string,
  bridge: string,
  { bridge: address }: ContainerAddresses,
  mtu: number,
): string[] {
  const port = `${bridge}-p`
  return [
    `link add ${bridge} type bridge`,
    `address add ${address} dev ${bridge}`,
    `link set ${bridge} mtu ${mtu} up`,
    `link add ${port} type veth peer name eth0 netns ${namespace}`,
    `link set ${port} mtu ${mtu} master ${bridge} up`,
  ]
}
