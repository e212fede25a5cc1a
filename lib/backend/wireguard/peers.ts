/** The peers of WireGuard devices, as the kernel is to have them. */
import { z } from 'zod'
import { WG_KEY } from '../../linux/wg.js'
import {
  type Address,
  type Family,
  type Prefix,
  containsAddress,
  formatEndpoint,
  formatPrefix,
  parsePrefix,
} from '../../subnet/prefix.js'
import { type Subnet, formatSubnet, subnetPrefix } from '../../subnet/subnet-key.js'
import { type Remote, publicAddress } from '../backend.js'
import type { Wanted } from '../kernel/kernel-backend.js'
import type { KernelObject } from '../kernel/objects.js'
import type { AddressPair } from '../underlay.js'
import { digestOf } from './keys.js'

/** `separate`: a device for each family; else one for both, and what it travels in. */
export type WireguardMode = 'separate' | 'auto' | 'ipv4' | 'ipv6'

export interface PeerFields {
  readonly device: string
  readonly publicKey: string
  readonly endpoint: string | undefined
  readonly allowedIps: readonly string[]
  /** Seconds; 0 for none. */
  readonly keepalive: number
  readonly presharedKey: string | undefined
}

/** A host that a device takes packets from, and encrypts packets to. */
export class WireguardPeer implements KernelObject {
  readonly rank = 1
  readonly program = 'wg'
  readonly key: string
  readonly spec: string
  readonly device: string
  readonly endpoint: string
  readonly #line: string
  readonly #presharedKeyFile: string

  /** @param presharedKeyFile where wg(8) reads the preshared key of the fields. */
  constructor(fields: PeerFields, presharedKeyFile: string) {
    const { device, publicKey, endpoint = 'unknown', presharedKey } = fields
    this.device = device
    this.endpoint = endpoint
    this.#line = `${device} peer ${publicKey}`
    this.key = peerKey(device, publicKey)
    const allowed = [...fields.allowedIps].sort().join(',')
    const settings = `endpoint ${endpoint} persistent-keepalive ${fields.keepalive} allowed-ips ${allowed}`
    this.spec = `${settings} psk ${digestOf(presharedKey)}`
    this.#presharedKeyFile = presharedKey === undefined ? '/dev/null' : presharedKeyFile
  }

  get put(): readonly string[] {
    const settings = this.spec.replace(/ psk \S+$/, '')
    return [`${this.#line} preshared-key ${this.#presharedKeyFile} ${settings}`]
  }

  get remove(): string {
    return `${this.#line} remove`
  }
}

export function peerKey(device: string, publicKey: string): string {
  return `wireguard ${device} peer ${publicKey}`
}

/** A device, and what its peers are told by. */
export interface PeerDevice {
  readonly name: string
  /** Of the packets that it carries. */
  readonly families: readonly Family[]
  readonly listenPort: number
}

export interface PeerOptions {
  readonly mode: WireguardMode
  readonly keepalive: number
  readonly presharedKey: string | undefined
  readonly presharedKeyFile: string
  /** Of this host. */
  readonly publicKey: string
  readonly addresses: AddressPair
}

/** What flannel puts into the record of a host, read as coming from anybody. */
const dataSchema = z.looseObject({
  PublicKey: z.string().regex(WG_KEY),
  // A record of flannel before 0.26.6 has none.
  Port: z.number().int().min(0).max(65_535).default(0),
})

/** The peers of all devices. */
export function wantPeers(
  remotes: readonly Remote[],
  devices: readonly PeerDevice[],
  options: PeerOptions,
): Pick<Wanted, 'skipped'> & { readonly objects: readonly WireguardPeer[] } {
  const objects: WireguardPeer[] = []
  const skipped: { subnet: string; why: string }[] = []
  const holders = new Map<string, Subnet>()
  // Of twins, as a host leaves that has moved, the later counts.
  const ordered = remotes.toSorted((a, b) => compareRevisions(b, a))
  for (const remote of ordered)
    for (const device of devices) {
      const allowedIps = device.families.flatMap(family => {
        const prefix = subnetPrefix(remote.subnet, family)
        return prefix === undefined ? [] : [formatPrefix(prefix)]
      })
      if (allowedIps.length === 0) continue
      const peer = peerOf(remote, device, allowedIps, options)
      const twin = typeof peer === 'string' ? undefined : holders.get(peer.key)
      if (typeof peer === 'string')
        skipped.push({ subnet: formatSubnet(remote.subnet), why: peer })
      else if (twin !== undefined)
        skipped.push({
          subnet: formatSubnet(remote.subnet),
          why: `its PublicKey is that of ${formatSubnet(twin)}`,
        })
      else {
        holders.set(peer.key, remote.subnet)
        objects.push(peer)
      }
    }
  return { objects, skipped }
}

function compareRevisions(a: Remote, b: Remote): number {
  const [first, second] = [a.modRevision ?? 0n, b.modRevision ?? 0n]
  return first < second ? -1 : first > second ? 1 : 0
}

/** A remote as a peer, or why it cannot be one. */
function peerOf(
  remote: Remote,
  device: PeerDevice,
  allowedIps: readonly string[],
  options: PeerOptions,
): WireguardPeer | string {
  const { keepalive, presharedKey, presharedKeyFile, publicKey } = options
  const data = peerData(remote, device)
  if (data === undefined) return 'its record has no PublicKey'
  if (data.PublicKey === publicKey) return 'its PublicKey is ours'
  const endpoint = endpointOf(remote, device, options)
  if (typeof endpoint === 'string') return endpoint
  return new WireguardPeer(
    {
      device: device.name,
      publicKey: data.PublicKey,
      endpoint: formatEndpoint(endpoint, data.Port || device.listenPort),
      allowedIps,
      keepalive,
      presharedKey,
    },
    presharedKeyFile,
  )
}

/**
 * A device that carries both families listens on the port of BackendData; that of
 * BackendV6Data is another's in records of stock flannel.
 */
function peerData(
  { holder: { backendData, backendV6Data } }: Remote,
  { families }: PeerDevice,
): z.infer<typeof dataSchema> | undefined {
  const both = families.length > 1
  const data = families.includes(4) ? backendData : backendV6Data
  return dataSchema.safeParse(both ? (data ?? backendV6Data) : data).data
}

/** The address that packets to a remote travel to, or why there is none. */
export function endpointOf(
  remote: Remote,
  { families }: PeerDevice,
  { mode, addresses }: Pick<PeerOptions, 'mode' | 'addresses'>,
): Address | string {
  const reachable = (family: Family): Address | undefined =>
    addresses[family] === undefined ? undefined : publicAddress(remote, family)
  const choose = (): Address | undefined => {
    if (mode === 'ipv4') return reachable(4)
    if (mode === 'ipv6') return reachable(6)
    if (mode === 'separate') return families[0] && reachable(families[0])
    const [v4, v6] = [reachable(4), reachable(6)]
    const isPublic = (address: Address | undefined): boolean =>
      address !== undefined && !isPrivate(address)
    if (isPublic(v4)) return v4
    return isPublic(v6) && isPublic(addresses[6]) ? v6 : (v4 ?? v6)
  }
  return choose() ?? 'its record has no PublicIP that this host can send to'
}

/** RFC 1918 and RFC 4193: what flannel's mode auto takes for private. */
const PRIVATE: readonly Prefix[] = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  'fc00::/7',
].map(parsePrefix)

function isPrivate(address: Address): boolean {
  return PRIVATE.some(
    range => range.family === address.family && containsAddress(range, address),
  )
}
