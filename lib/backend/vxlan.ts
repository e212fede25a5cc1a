import { randomBytes } from 'node:crypto'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { release } from 'node:os'
import { batch } from '../linux/ip-batch.js'
import { listLinks } from '../linux/ip-links.js'
import { hasTxChecksum, setTxChecksum } from '../linux/ethtool.js'
import { writeSysctl } from '../linux/sysctl.js'
import type { NetworkConfig } from '../subnet/network-config.js'
import { FAMILIES, type Family, baseAddress, formatAddress } from '../subnet/prefix.js'
import { subnetPrefix } from '../subnet/subnet-key.js'
import {
  type BackendContext,
  type BackendPlan,
  type LeaseData,
  type Reach,
  type Remote,
  type RouteToRemote,
  publicAddress,
} from './backend.js'
import { BackendError } from './errors.js'
import { findOnLink } from './host-gw.js'
import { KernelBackend, type KernelPlan, type Wanted } from './kernel/kernel-backend.js'
import { linkAlias } from './kernel/left.js'
import { linesToEnsure, setUpLink } from './kernel/own-link.js'
import { type VtepDevice, vtepDevice } from './kernel/vtep-device.js'
import { vxlanEncapsulation } from './kernel/verification-rules.js'
import { MAC, wantVxlan } from './kernel/vxlan-objects.js'
import { endLeft } from './left.js'
import { OVERHEAD } from './mtu.js'
import { readNumber, readSwitch } from './options.js'

/** Linux's own, which flannel leaves it to. IANA's 4789 is others'. */
const DEFAULT_PORT = 8472
const MOST_VNI = 2 ** 24 - 1

/** Every IPv6 link takes packets of 1280, and an IPv4 overlay of less is of no use. */
const LEAST_MTU = 1280

interface VxlanOptions {
  readonly vni: number
  readonly port: number
  /** Of the outer packets; undefined for the underlay's. */
  readonly mtu: number | undefined
  readonly gbp: boolean
  readonly learning: boolean
  readonly directRouting: boolean
  /** Leave checksums of inner packets to the hardware. */
  readonly checksumOffload: boolean
}

/** Throws BackendError. */
export function checkVxlan({ backend: { options } }: NetworkConfig): VxlanOptions {
  const port = readNumber(options, 'Port', { least: 0, most: 65_535, otherwise: 0 })
  const mtu = readNumber(options, 'MTU', { least: 0, most: 65_535, otherwise: 0 })
  if (mtu !== 0 && mtu < LEAST_MTU)
    throw new BackendError(
      'ERR_BACKEND_OPTION',
      `Backend.MTU is ${mtu}; it is that of the outer packets, ${LEAST_MTU} or more`,
    )
  return {
    vni: readNumber(options, 'VNI', { least: 1, most: MOST_VNI, otherwise: 1 }),
    port: port === 0 ? DEFAULT_PORT : port,
    mtu: mtu === 0 ? undefined : mtu,
    gbp: readSwitch(options, 'GBP'),
    learning: readSwitch(options, 'Learning'),
    directRouting: readSwitch(options, 'DirectRouting'),
    checksumOffload: readSwitch(options, 'ChecksumOffload', hasSoundOffload(release())),
  }
}

/**
 * Kernels before 5.7 may write a checksum into a masqueraded UDP header that has
 * none, so that services time out (flannel #1279; fixed by ea64d8d6c675).
 */
export function hasSoundOffload(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map(part => parseInt(part, 10))
  return major > 5 || (major === 5 && minor >= 7)
}

export function planVxlan(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const options = checkVxlan(config)
  const outerMtu = options.mtu ?? underlay.mtu
  if (outerMtu > underlay.mtu)
    throw new BackendError(
      'ERR_BACKEND_OPTION',
      `Backend.MTU is ${outerMtu}, more than the ${underlay.mtu} of ${underlay.device}`,
    )
  const families = config.families.map(({ network }) => network.family)
  for (const family of families)
    if (underlay.addresses[family] === undefined)
      throw new BackendError(
        'ERR_BACKEND_UNSUPPORTED',
        `the vxlan backend carries IPv${family} in IPv${family}, and ${underlay.device} has no such address`,
      )
  const overlayMtu = Math.min(
    ...families.map(family => outerMtu - OVERHEAD.vxlan(family)),
  )
  let macs: Promise<ReadonlyMap<Family, string>> | undefined
  const findMacs = (): Promise<ReadonlyMap<Family, string>> =>
    (macs ??= obtainMacs(context, options.vni, families))
  return {
    leaseType: 'vxlan',
    overlayMtu,
    outerMtu: options.mtu,
    forget: async () => {
      for (const family of families) await rm(macFile(context, family), { force: true })
    },
    leaseData: async () => describeLease(options.vni, await findMacs()),
    endLeft: () => endLeft(context),
    start: async subnet => {
      const found = await findMacs()
      const devices = families.map(family => {
        const network = config.families.find(({ network }) => network.family === family)
        const own = subnetPrefix(subnet, family)
        const local = underlay.addresses[family]
        if (network === undefined || own === undefined || local === undefined)
          throw new TypeError(`no subnet of IPv${family}`)
        return vtepDevice({
          ...options,
          family,
          name: deviceName(family, options.vni),
          alias: linkAlias(context),
          subnet: own,
          link: underlay.device,
          local: formatAddress(local),
          mtu: overlayMtu,
          mac: found.get(family) ?? '',
          addresses: [{ family, address: formatAddress(baseAddress(own)) }],
          networks: [network.network],
        })
      })
      return await KernelBackend.start(context, new VxlanPlan(context, options, devices))
    },
  }
}

/** flannel's names. */
function deviceName(family: Family, vni: number): string {
  return family === 4 ? `flannel.${vni}` : `flannel-v6.${vni}`
}

export function vxlanDevices(config: NetworkConfig): readonly string[] {
  const { vni } = checkVxlan(config)
  return config.families.map(({ network }) => deviceName(network.family, vni))
}

function describeLease(vni: number, macs: ReadonlyMap<Family, string>): LeaseData {
  const dataOf = (family: Family): unknown => {
    const mac = macs.get(family)
    return mac === undefined ? undefined : { VNI: vni, VtepMAC: mac }
  }
  const [data, v6Data] = [dataOf(4), dataOf(6)]
  return {
    ...(data !== undefined && { backendData: data }),
    ...(v6Data !== undefined && { backendV6Data: v6Data }),
  }
}

/**
 * The MAC address of each device: remotes have it in their tables, and stock
 * flannel does not look again. So it outlives reboots and the device, and that of
 * a device that flannel left is taken over.
 */
async function obtainMacs(
  { stateDir }: BackendContext,
  vni: number,
  families: readonly Family[],
): Promise<ReadonlyMap<Family, string>> {
  const macs = new Map<Family, string>()
  for (const family of families) {
    const file = macFile({ stateDir }, family)
    const kept = (await readFile(file, 'utf8').catch(() => '')).trim()
    const links = MAC.test(kept) ? [] : await listLinks()
    const there = links.find(
      link => link.name === deviceName(family, vni) && link.vxlan !== undefined,
    )
    const mac = MAC.test(kept) ? kept : (there?.mac ?? randomMac())
    if (mac !== kept) await writeFile(file, `${mac}\n`)
    macs.set(family, mac)
  }
  return macs
}

function macFile({ stateDir }: Pick<BackendContext, 'stateDir'>, family: Family): string {
  return `${stateDir}/vtep-mac-${family}`
}

/** A locally administered address of one station. */
function randomMac(): string {
  const bytes = randomBytes(6)
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02
  return [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join(':')
}

class VxlanPlan implements KernelPlan {
  readonly type = 'vxlan'
  readonly #context: BackendContext
  readonly #options: VxlanOptions
  readonly #devices: readonly VtepDevice[]
  /** Addresses of remotes on the link. */
  #direct: ReadonlySet<string> = new Set()

  constructor(
    context: BackendContext,
    options: VxlanOptions,
    devices: readonly VtepDevice[],
  ) {
    this.#context = context
    this.#options = options
    this.#devices = devices
  }

  get device(): string {
    return this.#devices[0]?.name ?? ''
  }

  get devices(): readonly string[] {
    return this.#devices.map(({ name }) => name)
  }

  async ensureDevices(): Promise<string[]> {
    const links = await listLinks()
    const mended: string[] = []
    for (const device of this.#devices) {
      const { name } = device
      const lines = linesToEnsure(
        device,
        links.find(link => link.name === name),
      )
      if (lines.length > 0) await setUp(device, lines)
      const isMended = this.#mendOffload(device)
      if (lines.length > 0 || isMended) mended.push(name)
    }
    return mended
  }

  /** Returns whether there was something to do. */
  #mendOffload({ name }: VtepDevice): boolean {
    const { checksumOffload } = this.#options
    if (hasTxChecksum(name) === checksumOffload) return false
    setTxChecksum(name, checksumOffload)
    return true
  }

  async removeDevices(): Promise<void> {
    const names = (await listLinks()).map(({ name }) => name)
    await batch(
      this.devices
        .filter(name => names.includes(name))
        .map(name => `link delete ${name}`),
    )
  }

  async want(remotes: readonly Remote[]): Promise<Wanted> {
    const { device } = this.#context.underlay
    this.#direct = await this.#findOnLink(remotes)
    const direct = { device, addresses: this.#direct }
    return wantVxlan(remotes, this.#devices, direct)
  }

  async #findOnLink(remotes: readonly Remote[]): Promise<ReadonlySet<string>> {
    if (!this.#options.directRouting) return new Set()
    const addresses = remotes.flatMap(remote =>
      this.#devices.flatMap(({ family }) => publicAddress(remote, family) ?? []),
    )
    return await findOnLink(addresses, this.#context.underlay.device)
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    const routes = FAMILIES.flatMap((family): RouteToRemote[] => {
      const device = this.#devices.find(each => each.family === family)
      const prefix = subnetPrefix(remote.subnet, family)
      const address = publicAddress(remote, family)
      if (device === undefined || prefix === undefined) return []
      const publicIp = address === undefined ? '' : formatAddress(address)
      return this.#direct.has(publicIp)
        ? [{ device: this.#context.underlay.device, nextHop: publicIp }]
        : [{ device: device.name, nextHop: formatAddress(baseAddress(prefix)) }]
    })
    const [first] = routes
    return first && { ...first, devices: routes.map(({ device }) => device) }
  }

  get reach(): Reach {
    const { port } = this.#options
    return {
      isAnsweredAtBase: true,
      carrier: `UDP ${port}`,
      ports: new Set([port]),
      hasMtuOption: true,
    }
  }

  get verified(): KernelPlan['verified'] {
    const { config, underlay } = this.#context
    return {
      families: this.#devices.map(({ family, subnet }) => ({
        encapsulation: vxlanEncapsulation(family, this.#options),
        subnet,
      })),
      direct: {
        device: underlay.device,
        networks: config.families.map(({ network }) => network),
        isTaken: this.#options.directRouting,
        subnets: this.#devices.map(({ subnet }) => subnet),
      },
    }
  }

  describe(): Record<string, unknown> {
    const { vni, port } = this.#options
    return {
      vni,
      port,
      mtu: this.#devices[0]?.mtu,
      devices: this.#devices.map(({ name, mac, local }) => ({ name, mac, local })),
    }
  }
}

async function setUp(
  { name, family }: VtepDevice,
  lines: readonly string[],
): Promise<void> {
  try {
    await setUpLink(lines)
  } catch (cause) {
    const why = (cause as Error).message
    const message = `cannot set up ${name}: ${why}${hintOf(why)}`
    throw new BackendError('ERR_DEVICE', message, { cause })
  }
  if (family === 6) await writeSysctl(`net/ipv6/conf/${name}/accept_ra`, '0')
}

function hintOf(message: string): string {
  if (/Operation not supported|Unknown device type/.test(message))
    return '; this kernel has no vxlan: modprobe vxlan, or set Backend.Type to udp'
  if (message.includes('File exists'))
    return '; another device has this VNI and port (ip -d link show type vxlan): remove it, or set another VNI'
  return ''
}
