import type { Family, Prefix } from '../../subnet/prefix.js'
import type { MadeLink } from './own-link.js'

export interface VtepFields extends Pick<
  MadeLink,
  'name' | 'alias' | 'mtu' | 'addresses' | 'networks'
> {
  readonly family: Family
  /** Of this host. */
  readonly subnet: Prefix
  readonly mac: string
  readonly vni: number
  readonly port: number
  /** The underlay's link, and our address on it. */
  readonly link: string
  readonly local: string
  readonly learning: boolean
  readonly gbp: boolean
}

/** A VXLAN device as it is to be. */
export interface VtepDevice extends MadeLink, VtepFields {
  readonly mac: string
}

export function vtepDevice(fields: VtepFields): VtepDevice {
  const { vni, port, link, local, learning, gbp, mac } = fields
  const switches = `${learning ? 'learning' : 'nolearning'}${gbp ? ' gbp' : ''}`
  return {
    ...fields,
    kind: 'vxlan',
    creation: `address ${mac} type vxlan id ${vni} dev ${link} local ${local} dstport ${port} ${switches}`,
    isCompatible: ({ vxlan }) =>
      vxlan?.vni === vni &&
      vxlan.port === port &&
      vxlan.local === local &&
      vxlan.link === link &&
      vxlan.learning === learning &&
      vxlan.gbp === gbp,
    otherwise: 'set another VNI',
  }
}
