import { batch } from '../linux/iproute.js'
import { type Prefix, formatPrefix } from '../subnet/prefix.js'
import { BackendError } from './errors.js'
import { ROUTE_PROTOCOL } from './route-protocol.js'

/** Larger than any metric in use, so that the bridge's own route to the subnet always wins. */
const LAST_METRIC = 4_278_198_272

/**
 * Drops packets to addresses of this host's subnet while no bridge has it.
 * Without it they would follow the network's route back into the overlay.
 */
export async function ensureBlackhole(subnet: Prefix): Promise<void> {
  const line = `route replace blackhole ${formatPrefix(subnet)} metric ${LAST_METRIC} proto ${ROUTE_PROTOCOL}`
  try {
    await batch([line])
  } catch (cause) {
    throw new BackendError('ERR_DEVICE', (cause as Error).message, { cause })
  }
}
