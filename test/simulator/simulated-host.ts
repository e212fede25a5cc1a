import type { Remote } from '../../lib/backend/backend.js'
import { RemoteSelector } from '../../lib/backend/remotes.js'
import { RemoteSync } from '../../cmd/flanneld/sync-remotes.js'
import type { HeldLease } from '../../lib/subnet/acquire-lease.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import { HostLease, type Tenure } from '../../lib/subnet/host-lease.js'
import { TenureEnd } from '../../lib/subnet/tenure-end.js'
import {
  type LeaseCache,
  type Moment,
  formatLeaseCache,
  parseLeaseCache,
} from '../../lib/subnet/lease-cache.js'
import { keepLeaseCache } from '../../lib/subnet/keep-lease-cache.js'
import { runAll } from '../../lib/subnet/loops.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { parseAddress } from '../../lib/subnet/prefix.js'
import type { Subnet } from '../../lib/subnet/subnet-key.js'
import { type Holder, formatHolder, parseHolder } from '../../lib/subnet/subnet-record.js'
import { HostClock } from '../fakes/manual-clock.js'
import { MemoryRegistry } from '../fakes/memory-registry.js'
import { silent } from '../helpers/log.js'
import type { SimulatedNetwork } from './simulated-network.js'

/** As in cmd/flanneld: how often the configuration is asked for. */
const CONFIG_POLL_MS = 1000

/** A lease counts as unproven so shortly before its end (lib/subnet/permit.ts). */
export const MARGIN_MS = 20_000

/** What outlives a reboot. */
interface Disk {
  hostId: string
  /** The hardware that the host id was made on. */
  madeOn: string
  cache?: string | undefined
  /** The subnet in the environment file. */
  told?: Subnet | undefined
}

/** The packet path: it outlives the daemon, but not the machine. */
export interface Path {
  readonly subnet: Subnet
  permitUntil: number
  remotes: readonly Remote[]
}

/** One run of the daemon. */
interface Daemon {
  readonly registry: MemoryRegistry
  readonly stop: AbortController
  ended: Promise<void>
  /** Aborts when the network is to be prepared again. */
  rejoin: AbortController
  /** The subnet that it serves at present. */
  serving?: Tenure | undefined
}

/** A subnet that is served, and what was known when it was taken. */
interface Part {
  readonly daemon: Daemon
  readonly tenure: Tenure
  readonly configText: string
  readonly holder: Holder
}

/**
 * One machine with its daemon: the real engine of leases, choice of remotes and
 * cache, around a packet path and a disk that are plain values. What
 * cmd/flanneld does around the engine is done here in short.
 */
export class SimulatedHost {
  readonly name: string
  readonly clock: HostClock
  readonly #network: SimulatedNetwork
  publicIp: string
  /** What a copied disk does not bring along. */
  readonly hardware: string
  disk: Disk
  path: Path | undefined
  isPartitioned = false
  isSuspended = false
  /** Each way to etcd, in ms. */
  latencyMs = 1
  /** Since when the daemon is alive and can reach etcd, by the clock; undefined while it cannot. */
  connectedSince: number | undefined
  /** When that was so last. */
  connectedAt = 0
  /** The end of the lease that etcd last vouched for, as this host knew when its daemon ran last. */
  provenUntil = 0
  /** When etcd did so. */
  provenAt = 0
  /** When the daemon died or the machine was suspended last. */
  unattendedSince = 0
  /** When it heard first that etcd has forgotten something. */
  heardOfForgettingAt = Number.NEGATIVE_INFINITY
  /** When an operator deleted its record last: then it takes etcd for forgetful. */
  forgottenAt = Number.NEGATIVE_INFINITY
  /** Its lease ended while nobody was there to renew it: no packet, until etcd says whose the subnet is. */
  mustProve = false
  /** Why its subnet may rightly change: an order, or what only an operator does. */
  mayChange: string | undefined
  #daemon: Daemon | undefined
  #boots = 0
  #names = 1

  constructor(
    network: SimulatedNetwork,
    parts: { name: string; publicIp: string; disk?: Disk },
  ) {
    this.#network = network
    this.name = parts.name
    this.hardware = `${parts.name}-${network.seed}`
    this.publicIp = parts.publicIp
    this.clock = new HostClock(network.clock)
    this.disk = parts.disk ?? { hostId: this.hardware, madeOn: this.hardware }
  }

  /** The end of the lease as the running daemon knows it. */
  get provenNow(): number {
    return this.#daemon?.serving?.keeper.provenUntil ?? 0
  }

  get isRunning(): boolean {
    return this.#daemon !== undefined
  }

  get registry(): MemoryRegistry | undefined {
    return this.#daemon?.registry
  }

  get held(): HeldLease | undefined {
    return this.#daemon?.serving?.keeper.held
  }

  /** Whether packets leave from the subnet of its path at this moment. */
  get forwards(): boolean {
    return (
      this.path !== undefined &&
      !this.isSuspended &&
      this.#network.clock.now() < this.path.permitUntil
    )
  }

  start(): void {
    if (this.#daemon !== undefined) return
    const daemon: Daemon = {
      registry: new MemoryRegistry(this.#network.etcd, {
        clock: this.clock,
        latencyMs: () => this.latencyMs,
      }),
      stop: new AbortController(),
      rejoin: new AbortController(),
      ended: Promise.resolve(),
    }
    if (this.isPartitioned) daemon.registry.partition()
    this.#return()
    this.#daemon = daemon
    daemon.ended = this.#run(daemon).catch((error: unknown) => {
      this.#network.report(`${this.name}: the daemon ended: ${describe(error)}`)
    })
  }

  /** kill -9: nothing is said to anybody, and what is under way may or may not happen. */
  kill(): void {
    const daemon = this.#daemon
    if (daemon === undefined) return
    this.#unattend()
    this.#daemon = undefined
    daemon.registry.close()
    daemon.stop.abort('keep')
  }

  /** SIGTERM. */
  async stop(): Promise<void> {
    const daemon = this.#daemon
    if (daemon === undefined) return
    daemon.stop.abort('keep')
    await daemon.ended
    this.kill()
  }

  /** The path goes with the machine. */
  powerOff(): void {
    this.kill()
    this.path = undefined
    this.#boots += 1
  }

  /** The address of the interface changes: the daemon prepares the network again. */
  readdress(publicIp: string): void {
    this.publicIp = publicIp
    this.#daemon?.rejoin.abort('keep')
  }

  suspend(): void {
    if (this.isSuspended) return
    this.#unattend()
    this.isSuspended = true
    this.clock.suspend()
  }

  resume(): void {
    if (!this.isSuspended) return
    this.isSuspended = false
    this.#return()
    this.clock.resume()
  }

  partition(): void {
    this.isPartitioned = true
    this.#daemon?.registry.partition()
  }

  heal(): void {
    this.isPartitioned = false
    this.#daemon?.registry.heal()
  }

  /** A daemon that serves nothing changes nothing for the path that an earlier one left. */
  #unattend(): void {
    const keeper = this.#daemon?.serving?.keeper
    if (keeper === undefined || this.isSuspended) return
    this.provenUntil = keeper.provenUntil
    this.provenAt = keeper.held.provenAt
    this.unattendedSince = this.#network.clock.now()
  }

  #return(): void {
    const wasProven = this.provenUntil > this.unattendedSince + MARGIN_MS
    if (wasProven && this.#network.now >= this.provenUntil) this.mustProve = true
  }

  async #run(daemon: Daemon): Promise<void> {
    const { signal } = daemon.stop
    while (!signal.aborted) {
      const cache = this.#readCache()
      const found = await this.#waitForConfig(daemon, cache?.config)
      if (found === undefined) return
      const { hostId, madeOn } = this.disk
      const mayBeClone = madeOn !== this.hardware
      const publicIp = parseAddress(this.publicIp)
      const holder = { publicIp, backendType: '', hostId }
      const isOurs = !mayBeClone && cache && parseHolder(cache.holder).hostId === hostId
      const isAsBefore = cache?.holder === formatHolder(holder)
      const config = parseNetworkConfig(found.text)
      const lease = new HostLease({
        registry: daemon.registry,
        prefix: this.#network.prefix,
        config,
        holder,
        localAddresses: [publicIp],
        previous: this.disk.told ?? cache?.held.subnet,
        mayBeClone,
        ...(cache && { former: parseHolder(cache.holder) }),
        isUnsettled: found.waited,
        memory: isOurs ? cache : undefined,
        isRegistryAway: found.isRemembered && isAsBefore,
        ttlSeconds: this.#network.ttlSeconds,
        clock: this.clock,
        log: silent,
        onWait: reason => {
          if (reason === undefined && this.#daemon === daemon)
            this.disk.madeOn = this.hardware
        },
      })
      daemon.rejoin = new AbortController()
      const rejoin = daemon.rejoin.signal
      try {
        const serve = (tenure: Tenure, each: AbortSignal): Promise<void> =>
          this.#serve({ daemon, tenure, holder, configText: found.text }, each)
        const permit = (until: number): Promise<void> => {
          this.#permit(daemon, until)
          return Promise.resolve()
        }
        const abandon = (): Promise<void> => {
          if (this.#daemon === daemon) this.path = undefined
          return Promise.resolve()
        }
        await lease.run({ serve, permit, abandon }, AbortSignal.any([signal, rejoin]))
        if (!rejoin.aborted) return
      } catch (error) {
        if (!(error instanceof SubnetError) || error.code !== 'ERR_HOST_CLONED')
          throw error
        this.mayChange = 'it is a clone'
        this.#names += 1
        this.disk.hostId = `${this.name}-${this.#names}-${this.#network.seed}`
        this.disk.madeOn = this.hardware
      }
    }
  }

  #readCache(): LeaseCache | undefined {
    const { cache } = this.disk
    return cache === undefined ? undefined : parseLeaseCache(cache, this.#present())
  }

  #present(): Moment {
    const boot = `boot ${this.#boots}`
    return { boot, now: this.clock.now(), date: this.clock.date() }
  }

  async #waitForConfig(
    { registry, stop }: Daemon,
    remembered: string | undefined,
  ): Promise<{ text: string; waited: boolean; isRemembered: boolean } | undefined> {
    for (let waited = false; !stop.signal.aborted; waited = true) {
      try {
        const { entry } = await registry.get(`${this.#network.prefix}/config`)
        if (entry !== undefined) return { text: entry.value, waited, isRemembered: false }
      } catch (error) {
        if (!(error instanceof SubnetError)) throw error
        if (remembered !== undefined)
          return { text: remembered, waited: true, isRemembered: true }
      }
      await this.clock.sleep(CONFIG_POLL_MS, stop.signal)
    }
    return undefined
  }

  #permit(daemon: Daemon, until: number): void {
    if (this.#daemon === daemon && this.path !== undefined) this.path.permitUntil = until
  }

  /** What NetworkHost does with a subnet. */
  async #serve(part: Part, signal: AbortSignal): Promise<void> {
    const { daemon, tenure } = part
    const config = parseNetworkConfig(part.configText)
    if (this.#daemon !== daemon) return
    const { keeper, view, permit } = tenure
    const { subnet } = keeper.held
    this.#network.noteTenure(this, subnet)
    daemon.serving = tenure
    const path = this.#openPath(subnet)
    path.permitUntil = permit.until
    const selector = new RemoteSelector(keeper.held, config, '')
    const sync = new RemoteSync({
      backend: {
        apply: remotes => {
          if (this.#daemon === daemon) this.#applyRemotes(path, remotes)
          return Promise.resolve()
        },
      },
      choose: () => selector.select(view.table.records()).remotes,
      applied: () => undefined,
      clock: this.clock,
      log: silent,
    })
    const forget = view.subscribe(() => {
      if (view.listed || view.table.records().length > 0) sync.wake()
    })
    if (view.listed || view.table.records().length > 0) sync.wake()
    try {
      await runAll(signal, [
        each => sync.run(each),
        keepLeaseCache({
          tenure,
          clock: this.clock,
          write: () => {
            this.#writeCache(part)
          },
        }),
      ])
    } finally {
      forget()
      if (this.#daemon === daemon) this.#unattend()
      daemon.serving = undefined
      if (this.#daemon === daemon && signal.reason instanceof TenureEnd) {
        if (signal.reason.kind !== 'lost') this.mayChange = signal.reason.message
        this.path = undefined
        this.disk.cache = undefined
      }
    }
  }

  #openPath(subnet: Subnet): Path {
    const name = this.#network.nameOf(subnet)
    if (this.path !== undefined && this.#network.nameOf(this.path.subnet) === name)
      return this.path
    this.path = { subnet, permitUntil: 0, remotes: [] }
    return this.path
  }

  #applyRemotes(path: Path, remotes: readonly Remote[]): void {
    this.#network.noteRemotes(this, path.remotes, remotes)
    path.remotes = remotes
  }

  #writeCache({ daemon, tenure, configText, holder }: Part): void {
    if (this.#daemon !== daemon) return
    const { keeper, permit, view } = tenure
    const { held } = keeper
    this.disk.told = held.subnet
    const cache = {
      config: configText,
      held,
      permitUntil: permit.until,
      holder: formatHolder(holder),
      ...view.memory(),
    }
    this.disk.cache = formatLeaseCache(cache, this.#present())
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
