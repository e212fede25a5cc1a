import { routesTo } from '../linux/ip-routes.js'
import {
  FAMILIES,
  type Address,
  type Family,
  formatAddress,
  formatPrefix,
  sameAddress,
} from '../subnet/prefix.js'
import { formatSubnet, subnetPrefix } from '../subnet/subnet-key.js'
import {
  type BackendContext,
  type BackendPlan,
  type Remote,
  type RouteToRemote,
  UNKNOWN_REACH,
  publicAddress,
} from './backend.js'
import { BackendError } from './errors.js'
import { KernelBackend, type KernelPlan, type Wanted } from './kernel/kernel-backend.js'
import { endLeft } from './left.js'
import { type KernelObject, RouteByGateway } from './kernel/objects.js'
import { OVERHEAD } from './mtu.js'

/** Each remote's subnet by way of the remote itself, which must be on the same link. */
export function planHostGw(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  for (const { network } of config.families) {
    const { family } = network
    const own = underlay.addresses[family]
    if (own !== undefined && sameAddress(own, underlay.publicAddresses[family])) continue
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      own === undefined
        ? `the host-gw backend needs an IPv${family} address on ${underlay.device}`
        : `your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported by host-gw backend (${formatAddress(own)} on ${underlay.device}); use vxlan or udp`,
    )
  }
  return {
    leaseType: 'host-gw',
    overlayMtu: underlay.mtu - OVERHEAD.hostGw(),
    endLeft: () => endLeft(context),
    start: () => KernelBackend.start(context, new HostGwPlan(context)),
  }
}

/** Addresses of remotes by which packets can be handed to them directly. */
export async function findOnLink(
  addresses: readonly Address[],
  device: string,
): Promise<ReadonlySet<string>> {
  const texts = [...new Set(addresses.map(formatAddress))]
  const ways = await routesTo(texts)
  return new Set(
    texts.filter((_, index) => {
      const way = ways[index]
      return way !== undefined && way.gateway === undefined && way.device === device
    }),
  )
}

/** Remotes that are reached without a tunnel. */
export interface Direct {
  /** The link that they are on. */
  readonly device: string
  readonly addresses: ReadonlySet<string>
}

/** What the kernel is to have, so that packets to remotes are handed to them. */
export function wantHostGw(
  remotes: readonly Remote[],
  families: readonly Family[],
  { device, addresses }: Direct,
): Wanted {
  const objects: KernelObject[] = []
  const skipped: { subnet: string; why: string }[] = []
  for (const remote of remotes)
    for (const family of families) {
      const prefix = subnetPrefix(remote.subnet, family)
      const address = publicAddress(remote, family)
      if (prefix === undefined) continue
      const gateway = address === undefined ? '' : formatAddress(address)
      if (addresses.has(gateway)) {
        const destination = formatPrefix(prefix)
        objects.push(
          new RouteByGateway({ destination, gateway, device, isOnLink: false }),
        )
      } else
        skipped.push({
          subnet: formatSubnet(remote.subnet),
          why:
            address === undefined
              ? `its record has no PublicIP of IPv${family}`
              : `${gateway} is not on the link of ${device}; host-gw needs all hosts on one link: use vxlan or udp`,
        })
    }
  return { objects, skipped }
}

class HostGwPlan implements KernelPlan {
  readonly type = 'host-gw'
  readonly reach = UNKNOWN_REACH
  readonly devices = []
  readonly #context: BackendContext

  constructor(context: BackendContext) {
    this.#context = context
  }

  get device(): string {
    return this.#context.underlay.device
  }

  ensureDevices(): Promise<string[]> {
    return Promise.resolve([])
  }

  async removeDevices(): Promise<void> {
    // The underlay's is not ours.
  }

  async want(remotes: readonly Remote[]): Promise<Wanted> {
    const { config } = this.#context
    const families = config.families.map(({ network }) => network.family)
    const addresses = remotes.flatMap(remote =>
      families.flatMap(family => publicAddress(remote, family) ?? []),
    )
    const onLink = await findOnLink(addresses, this.device)
    return wantHostGw(remotes, families, { device: this.device, addresses: onLink })
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    const address = FAMILIES.map(family => publicAddress(remote, family)).find(
      found => found !== undefined,
    )
    return address && { device: this.device, nextHop: formatAddress(address) }
  }

  get verified(): KernelPlan['verified'] {
    const { config, underlay } = this.#context
    const networks = config.families.map(({ network }) => network)
    const direct = { device: underlay.device, networks, isTaken: true, subnets: [] }
    return { families: [], direct }
  }

  describe(): Record<string, unknown> {
    return { mtu: this.#context.underlay.mtu }
  }
}
