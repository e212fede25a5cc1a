import { batch } from '../linux/ip-batch.js'
import { type Link, listLinks } from '../linux/ip-links.js'
import type { NetworkConfig } from '../subnet/network-config.js'
import {
  type Prefix,
  baseAddress,
  formatAddress,
  formatPrefix,
} from '../subnet/prefix.js'
import { formatSubnet, subnetPrefix } from '../subnet/subnet-key.js'
import {
  type BackendContext,
  type BackendPlan,
  type Reach,
  type Remote,
  type RouteToRemote,
  UNKNOWN_REACH,
  publicAddress,
} from './backend.js'
import { BackendError } from './errors.js'
import { type Direct, findOnLink } from './host-gw.js'
import { KernelBackend, type KernelPlan, type Wanted } from './kernel/kernel-backend.js'
import { linkAlias } from './kernel/left.js'
import { type KernelObject, RouteByGateway } from './kernel/objects.js'
import { type MadeLink, linesToEnsure, setUpLink } from './kernel/own-link.js'
import { ipipEncapsulation } from './kernel/verification-rules.js'
import { endLeft } from './left.js'
import { OVERHEAD } from './mtu.js'
import { readSwitch } from './options.js'

/** flannel's name. */
export const IPIP_DEVICE = 'flannel.ipip'

interface IpipOptions {
  readonly directRouting: boolean
}

/** Throws BackendError. */
export function checkIpip({
  backend: { options },
  families,
}: NetworkConfig): IpipOptions {
  if (families.some(({ network }) => network.family === 6))
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      'the ipip backend carries IPv4 alone; use vxlan or wireguard, or leave EnableIPv6 out',
    )
  return { directRouting: readSwitch(options, 'DirectRouting') }
}

export function planIpip(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const { directRouting } = checkIpip(config)
  const local = underlay.addresses[4]
  const network = config.families[0]?.network
  if (local === undefined || network === undefined)
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `the ipip backend needs an IPv4 address on ${underlay.device}`,
    )
  const overlayMtu = underlay.mtu - OVERHEAD.ipip()
  return {
    leaseType: 'ipip',
    overlayMtu,
    endLeft: () => endLeft(context),
    start: async subnet => {
      const own = subnetPrefix(subnet, 4)
      if (own === undefined) throw new TypeError('no subnet of IPv4')
      const link = ipipDevice({
        local: formatAddress(local),
        alias: linkAlias(context),
        mtu: overlayMtu,
        addresses: [{ family: 4, address: formatAddress(baseAddress(own)) }],
        networks: [network],
      })
      const plan = new IpipPlan(context, { link, own, network, directRouting })
      return await KernelBackend.start(context, plan)
    },
  }
}

type IpipFields = Pick<MadeLink, 'alias' | 'mtu' | 'addresses' | 'networks'> & {
  /** Our address on the underlay. */
  readonly local: string
}

/** A device that takes packets from any address, and sends each to its gateway. */
export function ipipDevice({ local, ...fields }: IpipFields): MadeLink {
  return {
    ...fields,
    name: IPIP_DEVICE,
    kind: 'ipip',
    creation: `type ipip local ${local}`,
    isCompatible: ({ ipip }: Link) => ipip?.local === local && ipip.remote === 'any',
    otherwise: 'set Backend.Type to vxlan',
  }
}

/** What the kernel is to have, so that packets to remotes leave by the device. */
export function wantIpip(remotes: readonly Remote[], direct: Direct): Wanted {
  const objects: KernelObject[] = []
  const skipped: { subnet: string; why: string }[] = []
  for (const remote of remotes) {
    const prefix = subnetPrefix(remote.subnet, 4)
    const address = publicAddress(remote, 4)
    if (prefix === undefined) continue
    if (address === undefined) {
      const why = 'its record has no PublicIP of IPv4'
      skipped.push({ subnet: formatSubnet(remote.subnet), why })
      continue
    }
    const gateway = formatAddress(address)
    const isDirect = direct.addresses.has(gateway)
    objects.push(
      new RouteByGateway({
        destination: formatPrefix(prefix),
        gateway,
        device: isDirect ? direct.device : IPIP_DEVICE,
        isOnLink: !isDirect,
      }),
    )
  }
  return { objects, skipped }
}

interface IpipParts extends IpipOptions {
  readonly link: MadeLink
  /** This host's subnet. */
  readonly own: Prefix
  readonly network: Prefix
}

class IpipPlan implements KernelPlan {
  readonly type = 'ipip'
  readonly device = IPIP_DEVICE
  readonly devices = [IPIP_DEVICE]
  readonly #context: BackendContext
  readonly #parts: IpipParts
  /** Addresses of remotes on the link. */
  #direct: ReadonlySet<string> = new Set()

  constructor(context: BackendContext, parts: IpipParts) {
    this.#context = context
    this.#parts = parts
  }

  async ensureDevices(): Promise<string[]> {
    const there = (await listLinks()).find(({ name }) => name === IPIP_DEVICE)
    const lines = linesToEnsure(this.#parts.link, there)
    if (lines.length === 0) return []
    try {
      await setUpLink(lines)
    } catch (cause) {
      const why = (cause as Error).message
      const message = `cannot set up ${IPIP_DEVICE}: ${why}${hintOf(why)}`
      throw new BackendError('ERR_DEVICE', message, { cause })
    }
    return [IPIP_DEVICE]
  }

  async removeDevices(): Promise<void> {
    const isThere = (await listLinks()).some(({ name }) => name === IPIP_DEVICE)
    await batch(isThere ? [`link delete ${IPIP_DEVICE}`] : [])
  }

  async want(remotes: readonly Remote[]): Promise<Wanted> {
    const { device } = this.#context.underlay
    const addresses = this.#parts.directRouting
      ? remotes.flatMap(remote => publicAddress(remote, 4) ?? [])
      : []
    this.#direct = await findOnLink(addresses, device)
    return wantIpip(remotes, { device, addresses: this.#direct })
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    const address = publicAddress(remote, 4)
    if (address === undefined) return undefined
    const nextHop = formatAddress(address)
    const device = this.#direct.has(nextHop) ? this.#context.underlay.device : IPIP_DEVICE
    return { device, nextHop }
  }

  get reach(): Reach {
    return {
      ...UNKNOWN_REACH,
      isAnsweredAtBase: true,
      carrier: 'IP protocol 4',
    }
  }

  get verified(): KernelPlan['verified'] {
    const { own, network, directRouting } = this.#parts
    return {
      families: [{ encapsulation: ipipEncapsulation(IPIP_DEVICE, network), subnet: own }],
      direct: {
        device: this.#context.underlay.device,
        networks: [network],
        isTaken: directRouting,
        subnets: [own],
      },
    }
  }

  describe(): Record<string, unknown> {
    const { mtu } = this.#parts.link
    return { mtu, directRouting: this.#parts.directRouting }
  }
}

function hintOf(message: string): string {
  if (/Operation not supported|Unknown device type/.test(message))
    return '; this kernel has no ipip: modprobe ipip, or set Backend.Type to vxlan'
  if (message.includes('File exists'))
    return '; another device takes packets from any address (ip -d link show type ipip): remove it'
  return ''
}
