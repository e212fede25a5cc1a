import { SubnetError } from '../../lib/subnet/errors.js'
import { HostLease } from '../../lib/subnet/host-lease.js'
import { runAll } from '../../lib/subnet/loops.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'
import { releaseSubnet } from '../../lib/subnet/subnet-writes.js'
import type { DaemonContext } from './daemon.js'
import { watchConfig } from './watch-config.js'
import { confirmIdentity, renewIdentity } from './identity.js'
import { NetworkHost } from './network-host.js'
import type { PreparedNetwork } from './prepare-network.js'
import { Rejoin } from './rejoin.js'
import { watchUnderlay } from './watch-underlay.js'

/**
 * Holds a place in the network until the daemon stops, or until the network must
 * be prepared again. Returns whether that is so.
 */
export async function serveNetwork(
  context: DaemonContext,
  prepared: PreparedNetwork,
): Promise<'stop' | 'again'> {
  const { flags, log, stop } = context
  const lease = openLease(context, prepared)
  const host = new NetworkHost(context, prepared)
  const rejoin = new AbortController()
  context.actions.set('apply-config', () => {
    rejoin.abort(new Rejoin('the network configuration is to be applied'))
  })
  context.actions.set('release-lease', () => {
    lease.release()
  })
  try {
    await runAll(AbortSignal.any([stop, rejoin.signal]), [
      async signal => {
        await lease.run(host, signal)
        // Released: there is nothing left to do.
        if (!signal.aborted) context.end()
      },
      signal => watchConfig(context, prepared.configText, signal),
      signal => watchUnderlay(context, prepared, signal),
    ])
  } catch (error) {
    if (error instanceof Rejoin) {
      log.info({ reason: error.message }, 'preparing the network again')
      return 'again'
    }
    if (!isClone(error) || flags['node-id'] !== '') throw error
    log.warn(
      { reason: error.message },
      'this machine is a copy; taking a host id of its own',
    )
    await renewIdentity(prepared.identityOptions, log)
    await prepared.plan.forget?.()
    return 'again'
  } finally {
    context.actions.clear()
  }
  if (rejoin.signal.aborted && !stop.aborted) return 'again'
  if (flags['release-on-exit']) {
    // The next run must not go on from what is given back.
    await prepared.cacheFile.remove()
    await releaseHeld(context, lease)
  }
  return 'stop'
}

function openLease(context: DaemonContext, prepared: PreparedNetwork): HostLease {
  const { registry, prefix, state, clock, log } = context
  const { identity, identityOptions } = prepared
  const lease = new HostLease({
    registry,
    prefix,
    config: prepared.config,
    holder: prepared.holder,
    localAddresses: prepared.localAddresses,
    previous: prepared.previous,
    mayBeClone: identity.mayBeClone,
    former: prepared.former,
    isUnsettled: prepared.isUnsettled,
    memory: prepared.memory,
    isRegistryAway: prepared.isRegistryAway,
    ttlSeconds: context.leaseTtlSeconds,
    clock,
    log,
    onWait: reason => {
      if (reason !== undefined) {
        state.wait(reason)
        return
      }
      state.phase = 'starting'
      confirmIdentity(identityOptions, identity).catch((error: unknown) => {
        log.warn({ reason: String(error) }, 'the host id cannot be stored')
      })
    },
  })
  return lease
}

/** --release-on-exit: best effort; what fails is left to the lease's end. */
async function releaseHeld(
  { registry, prefix, log }: DaemonContext,
  { held, hostId }: HostLease,
): Promise<void> {
  if (held === undefined) return
  try {
    await releaseSubnet(registry, prefix, hostId, held.subnet)
    log.info({ subnet: formatSubnet(held.subnet) }, 'lease released')
  } catch (error) {
    if (!(error instanceof SubnetError)) throw error
    log.warn({ reason: error.message }, 'the lease could not be released; it runs out')
  }
}

function isClone(error: unknown): error is SubnetError {
  return error instanceof SubnetError && error.code === 'ERR_HOST_CLONED'
}
