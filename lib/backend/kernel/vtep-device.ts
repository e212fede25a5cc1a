import type { Link } from '../../linux/iproute.js'
import {
  ADDRESS_BITS,
  type Family,
  type Prefix,
  containsAddress,
  parseAddress,
} from '../../subnet/prefix.js'
import { BackendError } from '../errors.js'

/** A VXLAN device as it is to be. */
export interface VtepDevice {
  readonly family: Family
  readonly name: string
  readonly alias: string
  readonly vni: number
  readonly port: number
  /** The underlay's link, and our address on it. */
  readonly link: string
  readonly local: string
  readonly learning: boolean
  readonly gbp: boolean
  readonly mtu: number
  readonly mac: string
  /** Base of our subnet. */
  readonly address: string
  readonly network: Prefix
}

/** Lines of ip(8) that make the device what it is to be; none when it is. Throws BackendError. */
export function linesToMend(device: VtepDevice, link: Link | undefined): string[] {
  const { name } = device
  if (link !== undefined) refuseForeign(device, link)
  if (link === undefined) return creationOf(device)
  if (!isCompatible(device, link)) return [`link delete ${name}`, ...creationOf(device)]
  const wrong = addressesToRemove(device, link)
  const own = `${device.address}/${ADDRESS_BITS[device.family]}`
  const isThere = link.addresses.some(
    ({ local, prefixLength }) => `${local}/${prefixLength}` === own,
  )
  return [
    ...(link.alias === device.alias
      ? []
      : [`link set dev ${name} alias ${device.alias}`]),
    ...(link.mac === device.mac ? [] : [`link set dev ${name} address ${device.mac}`]),
    ...(link.mtu === device.mtu ? [] : [`link set dev ${name} mtu ${device.mtu}`]),
    ...(link.up ? [] : [`link set dev ${name} up`]),
    ...wrong.map(address => `address delete ${address} dev ${name}`),
    ...(isThere ? [] : [`address add ${own} dev ${name}${noDad(device)}`]),
  ]
}

function creationOf(device: VtepDevice): string[] {
  const { name, vni, link, local, port, learning, gbp, mac, mtu } = device
  return [
    `link add ${name} address ${mac} type vxlan id ${vni} dev ${link} local ${local} dstport ${port} ${learning ? 'learning' : 'nolearning'}${gbp ? ' gbp' : ''}`,
    `link set dev ${name} alias ${device.alias} addrgenmode none`,
    `link set dev ${name} mtu ${mtu} up`,
    `address add ${device.address}/${ADDRESS_BITS[device.family]} dev ${name}${noDad(device)}`,
  ]
}

/** Nobody else can have it. */
function noDad({ family }: VtepDevice): string {
  return family === 6 ? ' nodad' : ''
}

/** What a link cannot be changed to once it is made. */
function isCompatible(device: VtepDevice, { vxlan }: Link): boolean {
  return (
    vxlan?.vni === device.vni &&
    vxlan.port === device.port &&
    vxlan.local === device.local &&
    vxlan.link === device.link &&
    vxlan.learning === device.learning &&
    vxlan.gbp === device.gbp
  )
}

/** A device of flannel's with our name is taken over; another's is left alone. */
function refuseForeign({ name, alias }: VtepDevice, link: Link): void {
  if (link.vxlan === undefined)
    throw new BackendError(
      'ERR_DEVICE',
      `there is a device ${name} of kind ${link.kind ?? 'none'}; remove it, or set another VNI`,
    )
  if (link.alias !== undefined && link.alias !== alias)
    throw new BackendError(
      'ERR_DEVICE',
      `the device ${name} is that of ${link.alias}; set another VNI`,
    )
}

/** Addresses from an earlier subnet of ours. */
function addressesToRemove(device: VtepDevice, { addresses }: Link): string[] {
  const { family, network } = device
  return addresses
    .filter(({ family: other, local, scope, prefixLength }) => {
      if (other !== family || scope === 'link') return false
      if (local === device.address && prefixLength === ADDRESS_BITS[family]) return false
      return family === 6 || containsAddress(network, parseAddress(local))
    })
    .map(({ local, prefixLength }) => `${local}/${prefixLength}`)
}
