import type { Backend, Remote } from '../../lib/backend/backend.js'
import { RemoteSelector } from '../../lib/backend/remotes.js'
import type { Prober } from '../../lib/probe/prober.js'
import type { Host, Tenure } from '../../lib/subnet/host-lease.js'
import { TenureEnd } from '../../lib/subnet/tenure-end.js'
import { inChunks } from '../../lib/subnet/in-chunks.js'
import { runAll, untilAborted } from '../../lib/subnet/loops.js'
import type { Registry } from '../../lib/subnet/registry.js'
import { FAMILIES, formatAddress, formatPrefix } from '../../lib/subnet/prefix.js'
import {
  type Subnet,
  formatSubnet,
  prefixesOf,
  sameSubnet,
} from '../../lib/subnet/subnet-key.js'
import { formatHolder } from '../../lib/subnet/subnet-record.js'
import type { DaemonContext } from './daemon.js'
import { startFirewall } from './firewall.js'
import { keepLeaseCache } from '../../lib/subnet/keep-lease-cache.js'
import type { LeaseCache } from '../../lib/subnet/lease-cache.js'
import { lookAtPath } from './look-at-path.js'
import { type PeerServerOptions, servePeers } from './peer-server.js'
import type { PreparedNetwork } from './prepare-network.js'
import { publishNames } from './publish-names.js'
import { describeStates, openProber, targetsOf } from './probe-remotes.js'
import { writeSubnetEnv } from './subnet-env-file.js'
import { runSubnetHook } from './subnet-hook.js'
import { printSummary } from './summary.js'
import { RemoteSync } from './sync-remotes.js'
import { notifySystemd } from './systemd-notify.js'

/** How many leases etcd is asked about at the same time. */
const LEASES_AT_ONCE = 32

/** One tenure on this machine: what every part of it needs. */
export interface Serving extends PreparedNetwork {
  readonly subnet: Subnet
  readonly backend: Backend
  readonly tenure: Tenure
  readonly sync: RemoteSync
  readonly prober: Prober
}

/** This machine's side of holding a subnet: device, routes, firewall, files. */
export class NetworkHost implements Host {
  readonly #context: DaemonContext
  readonly #prepared: PreparedNetwork
  #backend: Backend | undefined
  /** What containers were told of last. */
  #told: Subnet | undefined

  constructor(context: DaemonContext, prepared: PreparedNetwork) {
    this.#context = context
    this.#prepared = prepared
    this.#told = prepared.previous
  }

  async permit(until: number): Promise<void> {
    // A path that does not answer is the backend's own matter: it is replaced and told again.
    await this.#backend?.permit(until).catch(() => undefined)
  }

  async abandon(): Promise<void> {
    await this.#prepared.plan.endLeft()
  }

  async serve(tenure: Tenure, signal: AbortSignal): Promise<void> {
    const { clock, journal, log } = this.#context
    const { plan } = this.#prepared
    const { subnet } = tenure.keeper.held
    journal.write('holding', { subnet: formatSubnet(subnet) })
    const backend = await plan.start(subnet)
    this.#backend = backend
    try {
      await backend.permit(tenure.permit.until)
      const serving = { ...this.#prepared, subnet, backend, tenure }
      const own = tenure.keeper.held
      const selector = new RemoteSelector(own, serving.config, plan.leaseType)
      const choose = (): readonly Remote[] => this.#chooseRemotes(tenure, selector)
      const { underlay } = this.#prepared
      const rate = this.#context.flags['probe-rate']
      const { outerMtu } = plan
      const prober = openProber({ backend, underlay, outerMtu, rate, clock, log })
      const applied = (remotes: readonly Remote[]): void => {
        prober.aimAt(targetsOf(remotes, { backend, underlay }))
      }
      const sync = new RemoteSync({ backend, choose, applied, clock, log })
      await this.#run({ ...serving, sync, prober }, signal)
    } finally {
      this.#backend = undefined
      this.#forget()
      await backend.close(this.#howToClose(signal))
      // A subnet that was given up is nothing to go on with.
      if (signal.reason instanceof TenureEnd) await this.#prepared.cacheFile.remove()
      journal.write('stopped', {
        subnet: formatSubnet(subnet),
        reason: describeReason(signal.reason),
      })
    }
  }

  /** Packets go on flowing through a restart of the daemon, but not from a subnet that is given up. */
  #howToClose({ reason }: AbortSignal): 'keep' | 'end' {
    const { flags } = this.#context
    const isOver = reason === 'end' || reason instanceof TenureEnd
    return isOver || flags['release-on-exit'] ? 'end' : 'keep'
  }

  /** What the status told of this tenure is over. */
  #forget(): void {
    const { state } = this.#context
    state.unpublish()
    this.#context.questions.clear()
    state.report('lease', undefined)
    state.report('remotes', undefined)
    state.report('backend', undefined)
    state.note('lease', undefined)
    state.note('remotes', undefined)
    state.note('peers', undefined)
    state.note('backend', undefined)
    state.ignoredRecords = []
    state.phase = 'starting'
  }

  async #run(serving: Serving, signal: AbortSignal): Promise<void> {
    const { config, subnet, backend, sync, prober } = serving
    this.#publishStatus(serving)
    this.#publishTroubles(serving)
    const { questions, registry } = this.#context
    questions.set('lease-times', () => readLeaseTimes(serving.tenure.view, registry))
    const firewall = await startFirewall(this.#context, {
      config,
      subnet,
      former: serving.formerEnv,
    })
    await runAll(signal, [
      each => this.#followView(serving, each),
      each => sync.run(each),
      each => keepProbing(prober, each),
      each => backend.run(each),
      each => servePeers(this.#peerServer(serving), each),
      each => firewall.run(each),
      each =>
        publishNames(
          this.#context,
          { holder: serving.holder, ranges: prefixesOf(subnet) },
          each,
        ),
      keepLeaseCache({
        tenure: serving.tenure,
        clock: this.#context.clock,
        write: () => serving.cacheFile.write(describeCache(serving)),
      }),
      each => this.#announce(serving, each),
    ])
  }

  #peerServer({ subnet, sync }: Serving): PeerServerOptions {
    const { flags, clock, log } = this.#context
    return {
      port: flags['peer-port'],
      ranges: prefixesOf(subnet),
      peers: () =>
        sync.remotes.map(({ subnet: theirs, holder }) => {
          const { publicIp, publicIpv6, sourceIps = [] } = holder
          const known = [publicIp, publicIpv6, ...sourceIps]
          return {
            ranges: prefixesOf(theirs),
            addresses: known.filter(each => each !== undefined),
          }
        }),
      look: (from, to) => lookAtPath(this.#context, from, to),
      clock,
      log,
    }
  }

  /** Tells containers and the supervisor of the subnet. */
  async #announce(serving: Serving, signal: AbortSignal): Promise<void> {
    const { state, flags, log } = this.#context
    const { subnet } = serving
    if (!(await writeSubnetEnv(this.#context, serving, signal))) return
    state.phase = 'ready'
    notifySystemd('READY=1', log)
    const before = this.#told
    this.#told = subnet
    await printSummary(this.#context, serving)
    if (before !== undefined && !sameSubnet(before, subnet)) {
      log.warn(
        { subnet: formatSubnet(subnet), before: formatSubnet(before) },
        'the subnet of this host has changed: containers keep their old addresses until they are started again',
      )
      await runSubnetHook(flags, { subnet, before, log })
    }
  }

  /** Wakes what depends on the view whenever that changes. */
  async #followView({ tenure, sync }: Serving, signal: AbortSignal): Promise<void> {
    const { state, journal } = this.#context
    const { view } = tenure
    const update = (): void => {
      if (state.etcdReachable !== view.reachable)
        journal.write(view.reachable ? 'etcd is back' : 'etcd is away')
      state.etcdReachable = view.reachable
      if (view.listed || view.table.records().length > 0) sync.wake()
    }
    const forget = view.subscribe(update)
    update()
    await untilAborted(signal)
    forget()
  }

  /** Turns what the registry says into the list of remotes, and says what it cannot use. */
  #chooseRemotes({ view }: Tenure, selector: RemoteSelector): readonly Remote[] {
    const { state, log } = this.#context
    const { remotes, rejected } = selector.select(view.table.records())
    const said = new Set(state.ignoredRecords.map(({ key, why }) => `${key} ${why}`))
    const ignored = [...rejected, ...view.table.bad()]
    for (const { key, why } of ignored) {
      if (!said.has(`${key} ${why}`)) log.warn({ key, why }, 'record ignored')
    }
    state.ignoredRecords = ignored
    return remotes
  }

  /** Says what is not as it should be: the backend, the age of the lease, a permit that ran out. */
  #publishTroubles({ tenure, sync, backend, prober }: Serving): void {
    const { keeper, permit } = tenure
    const { state, clock, renewMarginMs } = this.#context
    state.report('remotes', () => sync.trouble)
    state.report('backend', () => backend.trouble)
    state.report('lease', () =>
      permit.until > clock.now()
        ? undefined
        : 'the lease ran out while this host was not there to renew it; waiting for etcd to say whose the subnet is',
    )
    state.note('remotes', () => sync.shared.describe())
    state.note('backend', () => backend.note)
    state.note('peers', () => describeStates(prober))
    state.note('lease', () => {
      const left = keeper.provenUntil - clock.now()
      return left > renewMarginMs
        ? keeper.trouble
        : `${left > 0 ? 'ends soon' : 'not proven any more'}: ${keeper.trouble ?? 'etcd is away'}`
    })
  }

  #publishStatus(serving: Serving): void {
    const { state, clock, flags, registry } = this.#context
    const { config, plan, underlay, backend, holder, tenure, sync, prober } = serving
    const { keeper, permit } = tenure
    state.headline = () => {
      const { up, silent, unreachable } = prober.states
      const probed = up + silent + unreachable === 0 ? '' : ` (${up} answer)`
      return `${formatSubnet(keeper.held.subnet)} by ${backend.device}, ${sync.remotes.length} remotes${probed}`
    }
    state.publish('networks', () =>
      config.families.map(({ network }) => formatPrefix(network)),
    )
    state.publish('lease', () => ({
      subnet: formatSubnet(keeper.held.subnet),
      key: keeper.held.key,
      expiresInSeconds: Number.isFinite(keeper.provenUntil)
        ? Math.round((keeper.provenUntil - clock.now()) / 1000)
        : null,
      forwardingForSeconds: Math.max(0, Math.round((permit.until - clock.now()) / 1000)),
      record: JSON.parse(formatHolder(holder)) as unknown,
    }))
    state.publish('underlay', () => ({
      device: underlay.device,
      mtu: underlay.mtu,
      addresses: FAMILIES.flatMap(family => {
        const address = underlay.addresses[family]
        return address === undefined ? [] : [formatAddress(address)]
      }),
      ...backend.reach,
      ports: [...backend.reach.ports],
      longest: plan.outerMtu ?? underlay.mtu,
      peerPort: flags['peer-port'],
    }))
    state.publish('backend', () => backend.describe())
    state.publish('counters', () => ({
      leaseRenewals: keeper.renewals,
      recordLists: tenure.view.lists,
      applies: sync.applies.count,
      applySeconds: sync.applies.seconds,
      etcdCalls: registry.calls.made,
      etcdFailures: registry.calls.failed,
      etcdSeconds: registry.calls.seconds,
    }))
    state.publish('probes', () => ({
      rate: flags['probe-rate'],
      sent: prober.sentCount,
      trouble: prober.trouble ?? null,
    }))
    state.publish('remotes', async () => {
      const sessions = await backend.sessions?.().catch(() => undefined)
      return sync.remotes.map(remote => {
        const subnet = formatSubnet(remote.subnet)
        return {
          subnet,
          ...backend.routeTo(remote),
          record: JSON.parse(formatHolder(remote.holder)) as unknown,
          ...(prober.trouble === undefined && { path: prober.report(subnet) }),
          session: sessions?.(remote),
        }
      })
    })
  }
}

/** Seconds that etcd keeps each subnet's record, if nobody renews it; null for a reservation. */
async function readLeaseTimes(
  { table }: Tenure['view'],
  registry: Registry,
): Promise<Record<string, number | null>> {
  const times = await inChunks(table.records(), LEASES_AT_ONCE, async record => {
    const left =
      record.kind === 'lease' ? await registry.leaseTimeToLive(record.leaseId) : null
    return [formatSubnet(record.subnet), left] as const
  })
  return Object.fromEntries(times)
}

/** Without it the daemon goes on: nothing depends on what is measured. */
async function keepProbing(prober: Prober, signal: AbortSignal): Promise<void> {
  await prober.run(signal)
  await untilAborted(signal)
}

function describeReason(reason: unknown): string {
  if (reason === 'keep') return 'the daemon was stopped; packets go on'
  if (reason === 'end') return 'the daemon was ended'
  return reason instanceof Error ? reason.message : 'unknown'
}

function describeCache({ configText, holder, tenure }: Serving): LeaseCache {
  const { keeper, permit, view } = tenure
  return {
    config: configText,
    held: keeper.held,
    permitUntil: permit.until,
    holder: formatHolder(holder),
    ...view.memory(),
  }
}
