import type { Logger } from 'pino'
import type { Clock } from './clock.js'
import { SubnetError } from './errors.js'
import { renewIntervalMs } from './keep-lease.js'
import { formatAddress } from './prefix.js'
import type { Registry } from './registry.js'
import {
  type Holder,
  type OwnHolder,
  type SubnetRecord,
  readSubnetRecord,
  sameAddresses,
} from './subnet-record.js'

/** How often another host's lease is looked at while we find out whether it lives. */
const CLONE_POLL_MS = 2000

export interface RefuseClone {
  readonly registry: Registry
  readonly holder: OwnHolder
  /** True when our stored host id was made on hardware that looks different: we may be a copy. */
  readonly mayBeClone: boolean
  /** What this host wrote last, as far as it remembers: another address in our record is a stranger's. */
  readonly former?: Holder | undefined
  readonly ttlSeconds: number
  readonly clock: Clock
  readonly log: Logger
  /** Gives up what is waited for: then the reason of the signal is thrown. */
  readonly signal?: AbortSignal
}

/**
 * A copy of a machine has its host id. If the record with ours names an address
 * that this host did not write, or our hardware looks different, another machine
 * may live by it: then somebody renews that lease, and we see its time go up
 * within one interval of renewal. Throws ERR_HOST_CLONED then.
 */
export async function refuseClone(
  own: SubnetRecord,
  options: RefuseClone,
): Promise<void> {
  const { registry, holder, former, mayBeClone, ttlSeconds, clock, log, signal } = options
  if (own.holder.hostId !== holder.hostId || sameAddresses(own.holder, holder)) return
  const isStrange = former !== undefined && !sameAddresses(own.holder, former)
  if (!mayBeClone && !isStrange) return
  const address = own.holder.publicIp ?? own.holder.publicIpv6
  const at = address ? formatAddress(address) : 'another address'
  if (own.kind === 'reservation') {
    // Nobody renews a reservation, so that nothing shows whether its host is alive.
    if (mayBeClone) throw clonedBy(holder.hostId, at)
    return
  }
  log.warn(
    { hostId: holder.hostId, at },
    'another machine may go by our host id; waiting to see whether it is alive',
  )
  const watchMs = renewIntervalMs(ttlSeconds) * 1.2
  const start = clock.now()
  const first = await registry.leaseTimeToLive(own.leaseId)
  while (clock.now() - start < watchMs) {
    await clock.sleep(CLONE_POLL_MS, signal)
    signal?.throwIfAborted()
    const { entry } = await registry.get(own.key)
    if (entry === undefined) return
    const wasWritten = entry.modRevision !== own.modRevision
    // Not by the host of that id: the next look decides.
    if (wasWritten && readSubnetRecord(entry)?.holder.hostId !== own.holder.hostId) return
    const left = wasWritten ? 0 : await registry.leaseTimeToLive(own.leaseId)
    if (wasWritten || left > first - (clock.now() - start) / 1000 + 2) {
      throw clonedBy(holder.hostId, at)
    }
  }
}

function clonedBy(hostId: string, at: string): SubnetError {
  return new SubnetError(
    'ERR_HOST_CLONED',
    `host id ${hostId} is in use by the host at ${at}`,
  )
}
