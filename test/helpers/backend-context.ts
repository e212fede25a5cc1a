import { pino } from 'pino'
import type { BackendContext } from '../../lib/backend/backend.js'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { parseAddress } from '../../lib/subnet/prefix.js'

/** A dual-stack network, as it is stored. */
export const DUAL_NETWORK = {
  Network: '10.5.0.0/16',
  EnableIPv6: true,
  IPv6Network: 'fd00:5::/48',
}

/**
 * What a daemon hands to a backend on a host whose link to others is eth0.
 *
 * @param directory for its state and its sockets.
 * @param own the host's address of each family.
 */
export function backendContext(
  config: object,
  directory: string,
  own: readonly string[] = ['192.0.2.1', '2001:db8::1'],
): BackendContext {
  const addresses = Object.fromEntries(
    own.map(parseAddress).map(address => [address.family, address]),
  )
  return {
    config: parseNetworkConfig(JSON.stringify(config)),
    underlay: {
      device: 'eth0',
      index: 2,
      mtu: 1500,
      mac: undefined,
      addresses,
      publicAddresses: addresses,
      notes: [],
    },
    stateDir: directory,
    runDir: directory,
    verify: 'strict',
    udpQueues: 1,
    resyncMs: 5000,
    clock: systemClock(bootTimeMs),
    log: pino({ level: 'silent' }),
  }
}
