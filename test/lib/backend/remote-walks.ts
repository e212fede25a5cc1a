import type { Remote } from '../../../lib/backend/backend.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { subnetOf } from '../../helpers/lease-host.js'
import { fc } from '../../helpers/property.js'

function hex(number: number): string {
  return number.toString(16).padStart(2, '0')
}

/** Host `number` of a dual-stack network, as its vxlan backend would describe it. */
export function remote(number: number, fields: Partial<Remote['holder']> = {}): Remote {
  const byte = hex(number)
  return {
    subnet: subnetOf(`10.5.${number}.0/24`, `fd00:5:0:${byte}::/64`),
    holder: {
      publicIp: parseAddress(`192.0.2.${number}`),
      publicIpv6: parseAddress(`2001:db8::${byte}`),
      backendType: 'vxlan',
      backendData: { VNI: 1, VtepMAC: `02:00:00:00:00:${byte}` },
      backendV6Data: { VNI: 1, VtepMAC: `02:00:00:00:06:${byte}` },
      hostId: `host-${number}`,
      ...fields,
    },
  }
}

/** Who holds subnet `number`, with what MAC addresses and at what addresses. */
export interface Holding {
  readonly number: number
  readonly mac: number
  readonly host: number
}

export function toRemote({ number, mac, host }: Holding): Remote {
  return remote(number, {
    publicIp: parseAddress(`192.0.2.${host}`),
    publicIpv6: parseAddress(`2001:db8::${hex(host)}`),
    backendData: { VtepMAC: `02:00:00:00:00:${hex(mac)}` },
    backendV6Data: { VtepMAC: `02:00:00:00:06:${hex(mac)}` },
  })
}

/** Sets of leases that follow each other. */
export function anyWalk(maxLength: number): fc.Arbitrary<Holding[][]> {
  const byte = fc.integer({ min: 2, max: 14 })
  const holding = fc.record({ number: byte, mac: byte, host: byte })
  const state = fc.uniqueArray(holding, {
    selector: ({ number }) => number,
    maxLength: 8,
  })
  return fc.array(state, { minLength: 1, maxLength })
}
