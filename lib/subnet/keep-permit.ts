import type { Clock } from './clock.js'
import type { Host, Tenure } from './host-lease.js'
import { PERMIT_INTERVAL_MS } from './permit.js'
import { TenureEnd } from './tenure-end.js'

/** Says how long the host may forward, as it is known now. */
export async function extendPermit(
  { keeper, permit }: Tenure,
  host: Host,
  clock: Clock,
): Promise<void> {
  await host.permit(permit.extend(clock.now(), keeper.provenUntil))
}

/**
 * Says so again and again until `signal` aborts: with a tenure that ends, forwarding
 * ends.
 */
export async function keepPermit(
  tenure: Tenure,
  host: Host,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const { keeper, permit } = tenure
  while (!signal.aborted) {
    const now = clock.now()
    const before = permit.until
    await extendPermit(tenure, host, clock)
    // A permit that has run out waits for proof; none is nearer than the next look at the registry.
    if (before !== 0 && before < now && permit.until === before) keeper.checkNow()
    await clock.sleep(PERMIT_INTERVAL_MS, signal)
  }
  // Otherwise packets go on, and the next run of the daemon learns until when.
  if (!(signal.reason instanceof TenureEnd)) return
  permit.withdraw()
  await host.permit(0)
}
