import type { ForwardingState, NextHop } from '../encap/forwarding-table.js'
import { MAX_INDEX_BITS, type Range } from '../encap/subnet-index.js'
import { runAll } from '../subnet/loops.js'
import type { NetworkConfig } from '../subnet/network-config.js'
import {
  type Address,
  type Family,
  type Prefix,
  addressBytes,
  baseAddress,
  formatEndpoint,
  formatPrefix,
} from '../subnet/prefix.js'
import { type Subnet, prefixesOf, subnetPrefix } from '../subnet/subnet-key.js'
import type { Holder } from '../subnet/subnet-record.js'
import type {
  Backend,
  BackendContext,
  BackendPlan,
  Reach,
  Remote,
  RouteToRemote,
} from './backend.js'
import { BackendError } from './errors.js'
import { KernelKeeper } from './kernel/keeper.js'
import { removeLeft } from './kernel/left.js'
import { endLeft } from './left.js'
import { OVERHEAD } from './mtu.js'
import { readNumber, readSwitch } from './options.js'
import { PacketPath } from './udp/packet-path.js'
import { TunDevice } from './udp/tun-device.js'

/** flannel's port when the configuration names none. */
const DEFAULT_PORT = 8285

interface UdpOptions {
  readonly port: number
  /** Copy the DSCP of packets to the outer header. */
  readonly copyDscp: boolean
}

/**
 * What packets travel in: IPv4, as flannel has it, unless the network is of IPv6
 * alone. Either carries packets of both families.
 */
function underlayFamily({ families }: NetworkConfig): Family {
  return families.some(({ network }) => network.family === 4) ? 4 : 6
}

/** Throws BackendError. */
export function checkUdp(config: NetworkConfig): UdpOptions {
  for (const { network, subnetLength } of config.families) {
    if (subnetLength - network.length <= MAX_INDEX_BITS) continue
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `the udp backend carries ${2 ** MAX_INDEX_BITS} subnets at most: a SubnetLen of ${network.length + MAX_INDEX_BITS} or less in ${formatPrefix(network)}, not ${subnetLength}`,
    )
  }
  const { options } = config.backend
  return {
    port: readNumber(options, 'Port', {
      least: 1,
      most: 65_535,
      otherwise: DEFAULT_PORT,
    }),
    copyDscp: readSwitch(options, 'CopyDSCP'),
  }
}

export function planUdp(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const options = checkUdp(config)
  const family = underlayFamily(config)
  const address = underlay.addresses[family]
  if (address === undefined)
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `the udp backend needs an IPv${family} address on ${underlay.device}`,
    )
  const overlayMtu = underlay.mtu - OVERHEAD.udp(family)
  return {
    leaseType: '',
    overlayMtu,
    endLeft: () => endLeft(context),
    start: async subnet =>
      await UdpBackend.start({
        ...context,
        ...options,
        address,
        overlayMtu,
        subnet,
        queues: context.udpQueues,
      }),
  }
}

export interface UdpContext extends BackendContext, UdpOptions {
  /** The underlay address that datagrams are sent from and come to. */
  readonly address: Address
  readonly overlayMtu: number
  /** Of the device, each with a process and sockets of its own. */
  readonly queues: number
  /** Of this host. */
  readonly subnet: Subnet
}

class UdpBackend implements Backend {
  readonly note = undefined
  readonly #context: UdpContext
  readonly #path: PacketPath
  /** Of the device and the route into it. */
  readonly #keeper: KernelKeeper
  /** What another backend type has left is gone. */
  #isAlone = false
  /** One or none for each remote, made once: there may be ten thousand. */
  readonly #hops = new WeakMap<Remote, readonly NextHop[]>()

  private constructor(context: UdpContext, path: PacketPath) {
    this.#context = context
    this.#path = path
    this.#keeper = new KernelKeeper(context, new TunDevice(context, () => path.device))
  }

  static async start(context: UdpContext): Promise<Backend> {
    const path = await PacketPath.open(context)
    const backend = new UdpBackend(context, path)
    try {
      await backend.#keeper.settle()
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

  get trouble(): string | undefined {
    return this.#keeper.trouble
  }

  async apply(remotes: readonly Remote[]): Promise<void> {
    await this.#path.forward(this.#forwardingState(remotes))
    if (this.#isAlone) return
    // Routes of another backend type led past the path until now.
    await removeLeft(this.#context, undefined)
    this.#isAlone = true
  }

  routeTo({ holder }: Remote): RouteToRemote | undefined {
    const address = underlayAddress(holder, this.#context.address.family)
    if (address === undefined) return undefined
    return {
      device: this.device,
      nextHop: formatEndpoint(address, this.#context.port),
    }
  }

  get reach(): Reach {
    const { port } = this.#context
    return {
      isAnsweredAtBase: true,
      carrier: `UDP ${port}`,
      ports: new Set([port]),
      hasMtuOption: false,
    }
  }

  #forwardingState(remotes: readonly Remote[]): ForwardingState {
    const { config, verify, subnet, copyDscp } = this.#context
    return {
      families: config.families.flatMap(({ network }) => {
        const own = subnetPrefix(subnet, network.family)
        return own === undefined
          ? []
          : [{ network: toRange(network), subnet: toRange(own) }]
      }),
      verify,
      copyDscp,
      hops: remotes.flatMap(remote => this.#nextHopOf(remote)),
    }
  }

  #nextHopOf(remote: Remote): readonly NextHop[] {
    let hops = this.#hops.get(remote)
    if (hops === undefined) {
      hops = toNextHop(remote, this.#context)
      this.#hops.set(remote, hops)
    }
    return hops
  }

  async permit(untilMs: number): Promise<void> {
    await this.#path.permit(untilMs)
  }

  async run(signal: AbortSignal): Promise<void> {
    await runAll(signal, [
      each => this.#path.supervise(each),
      each => this.#keeper.run(each),
    ])
  }

  async describe(): Promise<Record<string, unknown>> {
    const { address, port, overlayMtu } = this.#context
    return {
      type: 'udp',
      device: this.device,
      mtu: overlayMtu,
      listen: formatEndpoint(address, port),
      ...this.#keeper.describe(),
      path: await this.#path.describe(),
    }
  }

  async close(how: 'keep' | 'end'): Promise<void> {
    await this.#path.close(how)
  }
}

/** The lease names no port: a remote listens on the one that we do. */
function toNextHop({ subnet, holder }: Remote, context: UdpContext): NextHop[] {
  const { config, address, port } = context
  const publicAddress = underlayAddress(holder, address.family)
  if (publicAddress === undefined) return []
  return [
    {
      subnets: prefixesOf(subnet)
        .filter(prefix => isIndexed(prefix, config))
        .map(toRange),
      address: addressBytes(publicAddress),
      port,
      sources: (holder.sourceIps ?? [])
        .filter(({ family }) => family === address.family)
        .map(addressBytes),
      // Ours do: stock flannel writes no host id.
      carriesEcn: holder.hostId !== undefined,
    },
  ]
}

/** A lease from before the subnets were made larger may be finer than the table is. */
function isIndexed(prefix: Prefix, { families }: NetworkConfig): boolean {
  return families.some(
    ({ network }) =>
      network.family === prefix.family &&
      prefix.length - network.length <= MAX_INDEX_BITS,
  )
}

function underlayAddress(holder: Holder, family: Family): Address | undefined {
  return family === 4 ? holder.publicIp : holder.publicIpv6
}

function toRange(prefix: Prefix): Range {
  return { address: addressBytes(baseAddress(prefix)), length: prefix.length }
}
