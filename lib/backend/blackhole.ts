import { batch } from '../linux/ip-batch.js'
import { listRoutes } from '../linux/ip-routes.js'
import { type Prefix, formatPrefix } from '../subnet/prefix.js'
import { BackendError } from './errors.js'
import { LAST_METRIC, ROUTE_PROTOCOL } from './route-protocol.js'

/**
 * Drops packets to addresses of this host's subnet while no bridge has it.
 * Without it they would follow the network's route back into the overlay.
 */
export async function ensureBlackhole(subnet: Prefix): Promise<void> {
  const line = `route replace blackhole ${formatPrefix(subnet)} metric ${LAST_METRIC} proto ${ROUTE_PROTOCOL}`
  await guarded(() => batch([line]))
}

/** Whether that route stands. */
export async function hasBlackhole(subnet: Prefix): Promise<boolean> {
  const routes = await guarded(() => listRoutes(subnet.family))
  return routes.some(
    ({ type, destination, metric, protocol }) =>
      type === 'blackhole' &&
      destination === formatPrefix(subnet) &&
      metric === LAST_METRIC &&
      protocol === String(ROUTE_PROTOCOL),
  )
}

export async function removeBlackhole(subnet: Prefix): Promise<void> {
  const line = `route delete blackhole ${formatPrefix(subnet)} metric ${LAST_METRIC} proto ${ROUTE_PROTOCOL}`
  await guarded(() => batch([line]))
}

async function guarded<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    throw new BackendError('ERR_DEVICE', (cause as Error).message, { cause })
  }
}
