import type { NetworkConfig } from '../subnet/network-config.js'
import type { BackendContext, BackendPlan } from './backend.js'
import { planAlloc } from './alloc.js'
import { BackendError } from './errors.js'
import { checkExtension, planExtension } from './extension.js'
import { planHostGw } from './host-gw.js'
import { IPIP_DEVICE, checkIpip, planIpip } from './ipip.js'
import { checkUdp, planUdp } from './udp.js'
import { checkVxlan, planVxlan, vxlanDevices } from './vxlan.js'
import { WIREGUARD_DEVICES, planWireguard } from './wireguard.js'
import { checkWireguard } from './wireguard/options.js'

interface BackendType {
  /** Checks what the configuration says, on any host. Throws BackendError. */
  check(config: NetworkConfig): void
  /** flannel's names of its devices, which an earlier run or flannel itself may have left. */
  devices?(config: NetworkConfig): readonly string[]
  /** The operator makes the routes to other hosts. */
  readonly leavesRoutes?: boolean
  /** Adds what this host is to it. Throws BackendError; changes nothing. */
  plan(context: BackendContext): BackendPlan
}

const CLOUD =
  'host-gw where all hosts are on one link, or else vxlan or udp, which need nothing of the cloud'

const TYPES: Readonly<Record<string, BackendType>> = {
  udp: { check: checkUdp, plan: planUdp },
  vxlan: { check: checkVxlan, devices: vxlanDevices, plan: planVxlan },
  'host-gw': { check: () => undefined, plan: planHostGw },
  wireguard: {
    check: checkWireguard,
    devices: () => WIREGUARD_DEVICES,
    plan: planWireguard,
  },
  ipip: { check: checkIpip, devices: () => [IPIP_DEVICE], plan: planIpip },
  alloc: { check: () => undefined, leavesRoutes: true, plan: planAlloc },
  extension: { check: checkExtension, leavesRoutes: true, plan: planExtension },
}

/** flannel's other types, of today and before, and what to use instead. */
const OTHERS: Readonly<Record<string, string>> = {
  ipsec: 'wireguard, which encrypts too',
  'tencent-vpc': CLOUD,
  'aws-vpc': CLOUD,
  gce: CLOUD,
  'ali-vpc': CLOUD,
}

/** Chooses the backend that the configuration names. Throws BackendError; changes nothing. */
export function planBackend(context: BackendContext): BackendPlan {
  return findType(context.config).plan(context)
}

/** Devices that are ours or flannel's, if they are there. */
export function devicesOf(config: NetworkConfig): readonly string[] {
  return findType(config).devices?.(config) ?? []
}

/** Whether routes to parts of the Network are the operator's, and no overlap. */
export function leavesRoutes(config: NetworkConfig): boolean {
  return findType(config).leavesRoutes === true
}

/** Whether this build could run what the configuration asks for. Throws BackendError. */
export function checkBackend(config: NetworkConfig): void {
  findType(config).check(config)
}

function findType({ backend: { type } }: NetworkConfig): BackendType {
  // Nobody's type is `constructor`, which every object has.
  const found = Object.hasOwn(TYPES, type) ? TYPES[type] : undefined
  if (found !== undefined) return found
  const known = Object.keys(TYPES)
    .join(', ')
    .replace(/, ([^,]*)$/, ' or $1')
  if (Object.hasOwn(OTHERS, type)) {
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `backend type ${type} is not supported by this build; set Backend.Type to ${OTHERS[type] ?? ''}`,
    )
  }
  throw new BackendError(
    'ERR_BACKEND_UNKNOWN',
    `unknown backend type: ${type}; set Backend.Type to ${known}`,
  )
}
