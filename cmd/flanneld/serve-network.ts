import type { Backend } from '../../lib/backend/backend.js'
import { selectRemotes } from '../../lib/backend/remotes.js'
import type { Clock } from '../../lib/subnet/clock.js'
import { LeaseKeeper } from '../../lib/subnet/keep-lease.js'
import { LeaseTable } from '../../lib/subnet/lease-table.js'
import { runAll } from '../../lib/subnet/loops.js'
import { formatPrefix } from '../../lib/subnet/prefix.js'
import { formatSubnet, subnetsPrefix } from '../../lib/subnet/subnet-key.js'
import { formatHolder } from '../../lib/subnet/subnet-record.js'
import { watchLeases } from '../../lib/subnet/watch-leases.js'
import type { DaemonContext } from './daemon.js'
import { startFirewall } from './firewall.js'
import { LEASE_TTL_SECONDS, type Membership } from './join-network.js'
import { writeSubnetEnv } from './subnet-env-file.js'
import { printSummary } from './summary.js'
import { RemoteSync } from './sync-remotes.js'
import { notifySystemd } from './systemd-notify.js'

/** How often the packet path is told that the daemon lives. */
const PERMIT_INTERVAL_MS = 10_000

/** How long the path may go on after that once the lease is not proven any more. */
const PERMIT_GRACE_MS = 60_000

/** A permit never reaches further, not even for a reservation, which has no end. */
const PERMIT_MAX_MS = LEASE_TTL_SECONDS * 1000

/** Keeps this host in step with the network until the daemon stops. */
export async function serveNetwork(
  context: DaemonContext,
  membership: Membership,
): Promise<void> {
  const { registry, state, clock, log, stop } = context
  const { config, backend, holder, held } = membership
  const lease = { registry, held, holder, ttlSeconds: LEASE_TTL_SECONDS, clock, log }
  const keeper = new LeaseKeeper(lease)
  const sync = new RemoteSync(backend, clock, log)
  publishStatus(context, membership, keeper, sync)
  await backend.permit(permitUntil(keeper, clock))
  const firewall = await startFirewall(context, { config, subnet: held.subnet })

  await runAll(stop, [
    signal => followLeases(context, membership, keeper, sync, signal),
    signal => keeper.run(signal),
    signal => sync.run(signal),
    signal => backend.run(signal),
    signal => extendPermit(backend, keeper, clock, signal),
    signal => firewall.run(signal),
    async signal => {
      if (!(await writeSubnetEnv(context, membership, signal))) return
      state.phase = 'ready'
      notifySystemd('READY=1', log)
      await printSummary(context, membership)
    },
  ])
}

/** Turns what the registry says into the list of remotes, and notices when our own record is gone. */
async function followLeases(
  { registry, prefix, state, clock, log }: DaemonContext,
  { config, plan, held }: Membership,
  keeper: LeaseKeeper,
  sync: RemoteSync,
  signal: AbortSignal,
): Promise<void> {
  const table = new LeaseTable()
  const said = new Set<string>()
  const onChange = (): void => {
    if (table.get(held.key) === undefined) keeper.checkNow()
    const { remotes, rejected } = selectRemotes(
      table.records(),
      held,
      config,
      plan.leaseType,
    )
    sync.update(remotes)
    const ignored = [...rejected, ...table.bad()]
    state.ignoredRecords = ignored
    for (const { key, why } of ignored) {
      if (!said.has(`${key} ${why}`)) log.warn({ key, why }, 'record ignored')
    }
    // Only what is wrong now is remembered, so that the memory stays bounded.
    said.clear()
    for (const { key, why } of ignored) said.add(`${key} ${why}`)
  }
  const onReachable = (reachable: boolean): void => {
    state.etcdReachable = reachable
  }
  await watchLeases(
    { registry, prefix: subnetsPrefix(prefix), table, clock, log, onChange, onReachable },
    signal,
  )
}

/** While the lease is proven, exactly as long as it lasts; beyond, from moment to moment. */
function permitUntil(keeper: LeaseKeeper, clock: Clock): number {
  const now = clock.now()
  return Math.min(now + PERMIT_MAX_MS, Math.max(keeper.expiresAt, now + PERMIT_GRACE_MS))
}

async function extendPermit(
  backend: Backend,
  keeper: LeaseKeeper,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    await clock.sleep(PERMIT_INTERVAL_MS, signal)
    if (signal.aborted) return
    // A path that does not answer is the backend's own matter: it is replaced and told again.
    await backend.permit(permitUntil(keeper, clock)).catch(() => undefined)
  }
}

function publishStatus(
  { state, clock }: DaemonContext,
  { config, backend, holder, held }: Membership,
  keeper: LeaseKeeper,
  sync: RemoteSync,
): void {
  const networks = config.families.map(({ network }) => formatPrefix(network))
  state.publish('networks', () => networks)
  state.publish('lease', () => ({
    subnet: formatSubnet(held.subnet),
    key: held.key,
    expiresInSeconds: Number.isFinite(keeper.expiresAt)
      ? Math.round((keeper.expiresAt - clock.now()) / 1000)
      : null,
    record: JSON.parse(formatHolder(holder)) as unknown,
  }))
  state.publish('backend', () => backend.describe())
  state.publish('remotes', () =>
    sync.remotes.map(remote => ({
      subnet: formatSubnet(remote.subnet),
      ...backend.routeTo(remote),
      record: JSON.parse(formatHolder(remote.holder)) as unknown,
    })),
  )
}
