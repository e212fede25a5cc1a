import type { Link } from '../../linux/iproute.js'
import type { Family, Prefix } from '../../subnet/prefix.js'
import { BackendError } from '../errors.js'
import { NO_LINK_LOCAL, type OwnLink, lineToAdd, linesToMend } from './own-link.js'

/** A VXLAN device as it is to be. */
export interface VtepDevice extends OwnLink {
  readonly family: Family
  /** Of this host. */
  readonly subnet: Prefix
  readonly alias: string
  readonly mac: string
  readonly vni: number
  readonly port: number
  /** The underlay's link, and our address on it. */
  readonly link: string
  readonly local: string
  readonly learning: boolean
  readonly gbp: boolean
}

/** Lines of ip(8) that make the device what it is to be; none when it is. Throws BackendError. */
export function linesToEnsure(device: VtepDevice, link: Link | undefined): string[] {
  if (link === undefined) return creationOf(device)
  refuseForeign(device, link)
  return isCompatible(device, link)
    ? linesToMend(device, link)
    : [`link delete ${device.name}`, ...creationOf(device)]
}

function creationOf(device: VtepDevice): string[] {
  const { name, vni, link, local, port, learning, gbp, mac, mtu } = device
  return [
    `link add ${name} address ${mac} type vxlan id ${vni} dev ${link} local ${local} dstport ${port} ${learning ? 'learning' : 'nolearning'}${gbp ? ' gbp' : ''}`,
    `link set dev ${name} alias ${device.alias}`,
    `link set dev ${name} ${NO_LINK_LOCAL}`,
    `link set dev ${name} mtu ${mtu} up`,
    ...device.addresses.map(address => lineToAdd(name, address)),
  ]
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
