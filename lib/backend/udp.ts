import type { ForwardingState, NextHop } from '../encap/forwarding-table.js'
import { batch } from '../linux/iproute.js'
import { writeSysctl } from '../linux/sysctl.js'
import { type NetworkConfig, familyConfig, option } from '../subnet/network-config.js'
import {
  type Address,
  type Prefix,
  baseAddress,
  formatAddress,
  formatPrefix,
} from '../subnet/prefix.js'
import { subnetPrefix } from '../subnet/subnet-key.js'
import type {
  Backend,
  BackendContext,
  BackendPlan,
  Remote,
  RouteToRemote,
} from './backend.js'
import { BackendError } from './errors.js'
import { OVERHEAD } from './mtu.js'
import { ROUTE_PROTOCOL } from './route-protocol.js'
import { type PathProcess, openPathProcess } from './udp/path-process.js'

/** flannel's port when the configuration names none. */
const DEFAULT_PORT = 8285

/** The packet path's table has room for a /8 cut into the smallest subnets, /30. */
const SHORTEST_NETWORK = 8

interface UdpOptions {
  /** The range that packets of ours come from and go to. */
  readonly network: Prefix
  readonly port: number
}

/** flannel's udp backend is IPv4 on both levels; so is the wire format. Throws BackendError. */
export function checkUdp(config: NetworkConfig): UdpOptions {
  const family = familyConfig(config, 4)
  if (family === undefined || config.families.length > 1) throw onlyIpv4()
  if (family.network.length < SHORTEST_NETWORK) {
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `the udp backend carries a Network of /${SHORTEST_NETWORK} at most, not ${formatPrefix(family.network)}`,
    )
  }
  const port = readPort(option(config.backend.options, 'Port'))
  return { network: family.network, port }
}

export function planUdp(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const options = checkUdp(config)
  const address = underlay.addresses[4]
  if (address === undefined) throw onlyIpv4()
  const overlayMtu = underlay.mtu - OVERHEAD.udp
  return {
    leaseType: '',
    overlayMtu,
    start: async subnet => {
      const own = subnetPrefix(subnet, 4)
      if (own === undefined) throw new TypeError('the udp backend needs an IPv4 subnet')
      return await UdpBackend.start({
        ...context,
        ...options,
        address,
        overlayMtu,
        subnet: own,
      })
    },
  }
}

function onlyIpv4(): BackendError {
  return new BackendError(
    'ERR_BACKEND_UNSUPPORTED',
    'the udp backend carries IPv4 over IPv4 only; set EnableIPv6 to false, or another Backend.Type',
  )
}

function readPort(value: unknown): number {
  if (value === undefined) return DEFAULT_PORT
  if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 65_536)
    return value
  throw new BackendError(
    'ERR_BACKEND_OPTION',
    `Backend.Port is ${JSON.stringify(value)}; it must be a number from 1 to 65535`,
  )
}

export interface UdpContext extends BackendContext {
  readonly network: Prefix
  readonly address: Address
  readonly port: number
  readonly overlayMtu: number
  /** Of this host. */
  readonly subnet: Prefix
}

class UdpBackend implements Backend {
  readonly #context: UdpContext
  readonly #path: PathProcess
  /** One or none for each remote, made once: there may be ten thousand. */
  readonly #hops = new WeakMap<Remote, readonly NextHop[]>()

  private constructor(context: UdpContext, path: PathProcess) {
    this.#context = context
    this.#path = path
  }

  static async start(context: UdpContext): Promise<Backend> {
    const path = await openPathProcess(context)
    const backend = new UdpBackend(context, path)
    try {
      await backend.#configureDevice()
      // A path that was taken over goes on with the remotes it has until they are listed.
      if (!path.wasTakenOver) await backend.apply([])
    } catch (error) {
      // A path that was taken over forwards: it is not ended for a mishap of ours.
      await backend.close(path.wasTakenOver ? 'keep' : 'end')
      throw error
    }
    return backend
  }

  get device(): string {
    return this.#path.device
  }

  /** Every line may be repeated; the kernel keeps what is there already. */
  async #configureDevice(): Promise<void> {
    const { network, overlayMtu, subnet } = this.#context
    const { device } = this
    await this.#acceptLocal()
    try {
      await batch([
        // No router solicitations of the kernel's on a device that carries IPv4 alone.
        `link set dev ${device} addrgenmode none`,
        `address replace ${formatAddress(baseAddress(subnet))}/32 dev ${device}`,
        `link set dev ${device} mtu ${overlayMtu} up`,
        `route replace ${formatPrefix(network)} dev ${device} proto ${ROUTE_PROTOCOL} scope global`,
      ])
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new BackendError('ERR_DEVICE', `cannot set up ${device}: ${why}`, { cause })
    }
  }

  /** ICMP errors go back into the TUN from its own address, which is a martian without this. */
  async #acceptLocal(): Promise<void> {
    const name = `net/ipv4/conf/${this.device}/accept_local`
    try {
      await writeSysctl(name, '1')
    } catch (error) {
      // In a container /proc/sys is often read-only; packets flow all the same.
      this.#context.log.warn(
        { reason: (error as Error).message },
        'cannot set accept_local: containers do not hear that a destination is unreachable',
      )
    }
  }

  async apply(remotes: readonly Remote[]): Promise<void> {
    await this.#path.forward(this.#forwardingState(remotes))
  }

  routeTo({ holder }: Remote): RouteToRemote | undefined {
    if (holder.publicIp === undefined) return undefined
    const nextHop = `${formatAddress(holder.publicIp)}:${this.#context.port}`
    return { device: this.device, nextHop }
  }

  #forwardingState(remotes: readonly Remote[]): ForwardingState {
    const { network, port, verify, subnet } = this.#context
    return {
      network: toUint32(network.network),
      networkLength: network.length,
      subnet: toUint32(subnet.network),
      subnetLength: subnet.length,
      verify,
      hops: remotes.flatMap(remote => this.#nextHopOf(remote, port)),
    }
  }

  #nextHopOf(remote: Remote, port: number): readonly NextHop[] {
    let hops = this.#hops.get(remote)
    if (hops === undefined) {
      hops = toNextHop(remote, port)
      this.#hops.set(remote, hops)
    }
    return hops
  }

  async permit(untilMs: number): Promise<void> {
    await this.#path.permit(untilMs)
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#path.supervise(signal, () => this.#configureDevice())
  }

  async describe(): Promise<Record<string, unknown>> {
    const { address, port, overlayMtu } = this.#context
    return {
      type: 'udp',
      device: this.device,
      mtu: overlayMtu,
      listen: `${formatAddress(address)}:${port}`,
      path: await this.#path.describe(),
    }
  }

  async close(how: 'keep' | 'end'): Promise<void> {
    await this.#path.close(how)
  }
}

/** The lease names no port: a remote listens on the one that we do. */
function toNextHop({ subnet, holder }: Remote, port: number): NextHop[] {
  const prefix = subnetPrefix(subnet, 4)
  if (prefix === undefined || holder.publicIp === undefined) return []
  return [
    {
      network: toUint32(prefix.network),
      length: prefix.length,
      address: toUint32(holder.publicIp.value),
      port,
      sources: (holder.sourceIps ?? [])
        .filter(source => source.family === 4)
        .map(source => toUint32(source.value)),
    },
  ]
}

function toUint32(value: bigint): number {
  return Number(value)
}
