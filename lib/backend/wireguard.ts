import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { batch } from '../linux/ip-batch.js'
import { type Link, listLinks } from '../linux/ip-links.js'
import { type WgPeer, listWgPeers } from '../linux/wg.js'
import {
  FAMILIES,
  type Family,
  baseAddress,
  formatAddress,
  formatPrefix,
} from '../subnet/prefix.js'
import { type Subnet, subnetPrefix } from '../subnet/subnet-key.js'
import type {
  BackendContext,
  BackendPlan,
  LeaseData,
  Reach,
  Remote,
  RouteToRemote,
  Session,
} from './backend.js'
import { BackendError } from './errors.js'
import { findNetworkRoutes } from './kernel/found.js'
import { KernelBackend, type KernelPlan, type Wanted } from './kernel/kernel-backend.js'
import { linkAlias, networksOf } from './kernel/left.js'
import { type KernelObject, RouteToDevice, RouteToNowhere } from './kernel/objects.js'
import { endLeft } from './left.js'
import { OVERHEAD } from './mtu.js'
import {
  type WireguardDevice,
  ensureWireguard,
  implementationOf,
} from './wireguard/device.js'
import { type OwnKey, obtainKey, ownKeyFile } from './wireguard/keys.js'
import { type WireguardOptions, checkWireguard } from './wireguard/options.js'
import { type PeerOptions, WireguardPeer, peerKey, wantPeers } from './wireguard/peers.js'
import { findWayPast } from './wireguard/proof.js'

/** flannel's names: that of IPv4 or both families, and that of IPv6. */
const DEVICES = { 4: 'flannel-wg', 6: 'flannel-wg-v6' } as const
export const WIREGUARD_DEVICES: readonly string[] = Object.values(DEVICES)

/** WireGuard tells nobody of changes to its peers. */
const POLL_MS = 10_000

/** After so long without a handshake no packet of a peer is taken (the protocol's Reject-After-Time). */
const SESSION_MS = 180_000

/** Sides that have something to send agree on new keys after two minutes, and try for 15 s. */
const REKEYED_MS = 135_000

export function planWireguard(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const options = checkWireguard(config)
  const overlayMtu = (options.mtu ?? underlay.mtu) - OVERHEAD.wireguard()
  const families = config.families.map(({ network }) => network.family)
  refuseMissingAddress(context, options.mode, families)
  let key: Promise<OwnKey> | undefined
  const findKey = (): Promise<OwnKey> =>
    (key ??= obtainKey(context.stateDir, context.wireguardKeyFile))
  return {
    leaseType: 'wireguard',
    overlayMtu,
    leaseData: async () => describeLease(await findKey(), options, families),
    outerMtu: options.mtu,
    forget: () => rm(ownKeyFile(context.stateDir), { force: true }),
    endLeft: () => endLeft(context, { keepsRefusals: true }),
    start: async subnet => {
      const own = await findKey()
      const presharedKeyFile = join(context.runDir, 'wireguard-psk')
      const { presharedKey } = options
      await rm(presharedKeyFile, { force: true })
      if (presharedKey !== undefined)
        await writeFile(presharedKeyFile, `${presharedKey}\n`, { mode: 0o400 })
      const devices = devicesFor(context, options, { subnet, key: own, mtu: overlayMtu })
      const peers: PeerOptions = {
        ...options,
        presharedKeyFile,
        publicKey: own.publicKey,
        addresses: underlay.addresses,
      }
      const plan = new WireguardPlan(context, devices, peers)
      return await KernelBackend.start(context, plan)
    },
  }
}

function refuseMissingAddress(
  { underlay }: BackendContext,
  mode: WireguardOptions['mode'],
  families: readonly Family[],
): void {
  const needed: readonly Family[] = {
    separate: families,
    auto: [],
    ipv4: [4 as const],
    ipv6: [6 as const],
  }[mode]
  const missing = needed.find(family => underlay.addresses[family] === undefined)
  if (missing !== undefined)
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `the wireguard backend in mode ${mode} needs an IPv${missing} address on ${underlay.device}; set Backend.Mode to auto, or --iface`,
    )
}

function describeLease(
  { publicKey }: OwnKey,
  { mode, listenPort, listenPortV6 }: WireguardOptions,
  families: readonly Family[],
): LeaseData {
  const portV6 = mode === 'separate' ? listenPortV6 : listenPort
  return {
    ...(families.includes(4) && {
      backendData: { PublicKey: publicKey, Port: listenPort },
    }),
    ...(families.includes(6) && {
      backendV6Data: { PublicKey: publicKey, Port: portV6 },
    }),
  }
}

function devicesFor(
  context: BackendContext,
  { mode, listenPort, listenPortV6 }: WireguardOptions,
  own: { readonly subnet: Subnet; readonly key: OwnKey; readonly mtu: number },
): WireguardDevice[] {
  const families = networksOf(context).map(({ family }) => family)
  const carried = mode === 'separate' ? families.map(family => [family]) : [families]
  return carried.map(each => {
    const isOther = mode === 'separate' && each[0] === 6
    const subnets = each.flatMap(family => subnetPrefix(own.subnet, family) ?? [])
    return {
      name: DEVICES[isOther ? 6 : 4],
      alias: linkAlias(context),
      mtu: own.mtu,
      key: own.key,
      listenPort: isOther ? listenPortV6 : listenPort,
      families: each,
      subnets,
      addresses: subnets.map(subnet => ({
        family: subnet.family,
        address: formatAddress(baseAddress(subnet)),
      })),
      networks: networksOf(context),
    }
  })
}

class WireguardPlan implements KernelPlan {
  readonly type = 'wireguard'
  readonly pollMs = POLL_MS
  readonly keepsRefusals = true
  readonly #context: BackendContext
  readonly #devices: readonly WireguardDevice[]
  readonly #peers: PeerOptions
  #links: readonly Link[] = []
  /** Peers as they are wanted, by key. */
  #wanted: ReadonlyMap<string, WireguardPeer> = new Map()
  /** Keys of peers whose leases say something new. */
  readonly #moved = new Set<string>()
  /** UDP ports of the peers. */
  #ports: ReadonlySet<number> = new Set()

  constructor(
    context: BackendContext,
    devices: readonly WireguardDevice[],
    peers: PeerOptions,
  ) {
    this.#context = context
    this.#devices = devices
    this.#peers = peers
  }

  get device(): string {
    return this.#devices[0]?.name ?? ''
  }

  get devices(): readonly string[] {
    return this.#devices.map(({ name }) => name)
  }

  get #refusals(): RouteToNowhere[] {
    return networksOf(this.#context).map(
      network => new RouteToNowhere(formatPrefix(network)),
    )
  }

  async ensureDevices(): Promise<string[]> {
    const links = await listLinks()
    const isMissing = this.devices.some(name => !links.some(link => link.name === name))
    // While there is no device, nothing may leave by another.
    if (isMissing) await batch(this.#refusals.flatMap(({ put }) => put))
    const mended: string[] = []
    for (const device of this.#devices) {
      const link = links.find(({ name }) => name === device.name)
      if (await ensureWireguard(device, link)) mended.push(device.name)
    }
    this.#links = mended.length > 0 ? await listLinks() : links
    return mended
  }

  async removeDevices(): Promise<void> {
    const links = (await listLinks()).filter(({ name }) => this.devices.includes(name))
    await batch(links.map(({ name }) => `link delete ${name}`))
  }

  want(remotes: readonly Remote[]): Promise<Wanted> {
    const { objects: peers, skipped } = wantPeers(remotes, this.#devices, this.#peers)
    for (const { key, endpoint } of peers) {
      const before = this.#wanted.get(key)
      if (before !== undefined && before.endpoint !== endpoint) this.#moved.add(key)
    }
    this.#wanted = new Map(peers.map(peer => [peer.key, peer]))
    this.#ports = new Set(peers.map(({ endpoint }) => portOf(endpoint)))
    const objects: KernelObject[] = [...peers, ...this.#refusals]
    for (const network of networksOf(this.#context)) {
      const { family } = network
      const { name = '' } = this.#carrierOf(family) ?? {}
      objects.push(new RouteToDevice(family, formatPrefix(network), name))
    }
    return Promise.resolve({ objects, skipped })
  }

  #carrierOf(family: Family): WireguardDevice | undefined {
    return this.#devices.find(({ families }) => families.includes(family))
  }

  async find(): Promise<readonly KernelObject[]> {
    const routes = networksOf(this.#context).map(network =>
      findNetworkRoutes([network], this.#carrierOf(network.family)?.name ?? ''),
    )
    const peers = this.devices.map(async device =>
      (await listWgPeers(device)).map(peer => this.#foundPeer(device, peer)),
    )
    return (await Promise.all([...routes, ...peers])).flat()
  }

  /**
   * A peer that sends from another address than its lease says is believed, as
   * WireGuard does: its packets are authentic. That ends with its session, and when
   * its lease says something new.
   */
  #foundPeer(device: string, peer: WgPeer): WireguardPeer {
    const found = new WireguardPeer({ device, ...peer }, '')
    const wanted = this.#wanted.get(found.key)
    if (wanted === undefined || this.#moved.delete(found.key)) return found
    const isAlive = Date.now() - (peer.handshakeAt ?? 0) < SESSION_MS
    const asWanted = { device, ...peer, endpoint: wanted.endpoint }
    return isAlive ? new WireguardPeer(asWanted, '') : found
  }

  /** Nothing may lead packets of the network past the devices that encrypt them. */
  async prove(remotes: readonly Remote[]): Promise<string | undefined> {
    for (const network of networksOf(this.#context)) {
      const { family } = network
      const own = this.#carrierOf(family)?.subnets.find(each => each.family === family)
      if (own === undefined) continue
      const past = await findWayPast({
        network,
        own,
        subnets: remotes.flatMap(({ subnet }) => subnetPrefix(subnet, family) ?? []),
        devices: this.devices,
        underlay: this.#context.underlay.device,
        links: this.#links,
      })
      if (past !== undefined) return past
    }
    return undefined
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    const peers = wantPeers([remote], this.#devices, this.#peers).objects
    const [first] = peers
    if (first === undefined) return undefined
    const devices = FAMILIES.filter(each => subnetPrefix(remote.subnet, each)).map(
      family => this.#carrierOf(family)?.name ?? first.device,
    )
    return { device: first.device, devices, nextHop: first.endpoint }
  }

  get reach(): Reach {
    const [first] = this.#devices
    return {
      isAnsweredAtBase: true,
      carrier: `UDP ${first?.listenPort ?? 0}`,
      ports: this.#ports,
      hasMtuOption: true,
    }
  }

  async sessions(): Promise<(remote: Remote) => Session | undefined> {
    const shown = await Promise.all(
      this.devices.map(async device =>
        (await listWgPeers(device)).map(
          peer => [peerKey(device, peer.publicKey), peer] as const,
        ),
      ),
    )
    const peers = new Map(shown.flat())
    return remote => {
      const sessions = wantPeers([remote], this.#devices, this.#peers).objects.flatMap(
        ({ key, endpoint }) => {
          const peer = peers.get(key)
          return peer === undefined ? [] : [describeSession(peer, endpoint)]
        },
      )
      // Of two, that with which something is wrong.
      return sessions.find(({ trouble }) => trouble !== null) ?? sessions[0]
    }
  }

  /** A peer's key tells who it is and what it may send; nothing of that comes in the clear. */
  get verified(): KernelPlan['verified'] {
    const subnets = this.#devices.flatMap(({ subnets }) => subnets)
    const { device } = this.#context.underlay
    const networks = networksOf(this.#context)
    return { families: [], direct: { device, networks, isTaken: false, subnets } }
  }

  describe(): Record<string, unknown> {
    return {
      mtu: this.#devices[0]?.mtu,
      mode: this.#peers.mode,
      publicKey: this.#peers.publicKey,
      carriedBy: implementationOf(this.#links.find(link => link.name === this.device)),
      devices: this.#devices.map(({ name, listenPort }) => ({ name, listenPort })),
    }
  }
}

/** No answer to our handshakes is all that WireGuard gives away of what is wrong. */
function describeSession(peer: WgPeer, endpoint: string): Session {
  const { handshakeAt, sentBytes, receivedBytes } = peer
  const age = handshakeAt === undefined ? null : (Date.now() - handshakeAt) / 1000
  const isOver = age === null || age * 1000 > REKEYED_MS
  return {
    handshakeSeconds: age === null ? null : Math.round(age),
    sentBytes,
    receivedBytes,
    trouble:
      isOver && sentBytes > 0
        ? `no handshake with ${endpoint}: a firewall drops its UDP port, its record has an old key, or Backend.PSK is not the same on both hosts (flannelctl config apply there)`
        : null,
  }
}

function portOf(endpoint: string): number {
  return Number(endpoint.slice(endpoint.lastIndexOf(':') + 1))
}
