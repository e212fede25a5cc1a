import type { BackendContext, BackendPlan } from './backend.js'
import { planAlloc } from './alloc.js'
import { BackendError } from './errors.js'
import { planUdp } from './udp.js'

type Plan = (context: BackendContext) => BackendPlan

const PLANS: Readonly<Record<string, Plan>> = { udp: planUdp, alloc: planAlloc }

/** flannel's other types, and what to use while this build has none of them. */
const MISSING = [
  'vxlan',
  'host-gw',
  'wireguard',
  'ipip',
  'ipsec',
  'extension',
  'tencent-vpc',
]

/** Chooses the backend that the configuration names, and checks its options. Changes nothing. */
export function planBackend(context: BackendContext): BackendPlan {
  const { type } = context.config.backend
  const plan = PLANS[type]
  if (plan !== undefined) return plan(context)
  const known = Object.keys(PLANS).join(' or ')
  if (MISSING.includes(type)) {
    throw new BackendError(
      'ERR_BACKEND_UNSUPPORTED',
      `backend type ${type} is not supported by this build; set Backend.Type to ${known}`,
    )
  }
  throw new BackendError(
    'ERR_BACKEND_UNKNOWN',
    `unknown backend type: ${type}; set Backend.Type to ${known}`,
  )
}
