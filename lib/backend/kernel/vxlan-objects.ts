import { z } from 'zod'
import {
  type Prefix,
  baseAddress,
  formatAddress,
  formatPrefix,
} from '../../subnet/prefix.js'
import { type Subnet, formatSubnet, subnetPrefix } from '../../subnet/subnet-key.js'
import { type Remote, publicAddress } from '../backend.js'
import type { Direct } from '../host-gw.js'
import type { Wanted } from './kernel-backend.js'
import { type KernelObject, FdbEntry, Neighbour, RouteByGateway } from './objects.js'
import type { VtepDevice } from './vtep-device.js'

export const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/

/** What flannel puts into the record of a host, read as coming from anybody. */
const vtepSchema = z.looseObject({
  VNI: z.number().optional(),
  VtepMAC: z
    .string()
    .toLowerCase()
    .regex(MAC)
    // The lowest bit of the first byte marks a group.
    .refine(
      mac => (parseInt(mac.slice(0, 2), 16) & 1) === 0 && mac !== '00:00:00:00:00:00',
    ),
})

/** What the kernel is to have, so that packets to remotes leave by VXLAN devices. */
export function wantVxlan(
  remotes: readonly Remote[],
  devices: readonly VtepDevice[],
  direct: Direct,
): Wanted {
  const objects: KernelObject[] = []
  const skipped: { subnet: string; why: string }[] = []
  const holders = new Map<string, Subnet>()
  for (const remote of remotes) {
    const skip = (why: string): void => {
      skipped.push({ subnet: formatSubnet(remote.subnet), why })
    }
    for (const device of devices) {
      const prefix = subnetPrefix(remote.subnet, device.family)
      if (prefix === undefined) continue
      const made = objectsFor(remote, prefix, device, direct)
      if (typeof made === 'string') {
        skip(made)
        continue
      }
      const twin = made.map(({ key }) => holders.get(key)).find(Boolean)
      if (twin !== undefined) {
        skip(`its MAC address is that of ${formatSubnet(twin)}`)
        continue
      }
      for (const { key } of made) holders.set(key, remote.subnet)
      objects.push(...made)
    }
  }
  return { objects, skipped }
}

/** What the kernel needs to reach a remote's subnet of one family, or why it cannot. */
function objectsFor(
  remote: Remote,
  prefix: Prefix,
  { family, name, vni, mac }: VtepDevice,
  direct: Direct,
): KernelObject[] | string {
  const address = publicAddress(remote, family)
  if (address === undefined) return `its record has no PublicIP of IPv${family}`
  const publicIp = formatAddress(address)
  const destination = formatPrefix(prefix)
  if (direct.addresses.has(publicIp))
    return [
      new RouteByGateway({
        destination,
        gateway: publicIp,
        device: direct.device,
        isOnLink: false,
      }),
    ]
  const { backendData, backendV6Data } = remote.holder
  const { data } = vtepSchema.safeParse(family === 4 ? backendData : backendV6Data)
  if (data === undefined) return 'its record has no VtepMAC'
  if (data.VNI !== undefined && data.VNI !== vni)
    return `its VNI is ${data.VNI}, ours is ${vni}`
  if (data.VtepMAC === mac) return 'its MAC address is ours'
  const gateway = formatAddress(baseAddress(prefix))
  return [
    new FdbEntry(name, data.VtepMAC, publicIp),
    new Neighbour(name, gateway, data.VtepMAC),
    new RouteByGateway({ destination, gateway, device: name, isOnLink: true }),
  ]
}
