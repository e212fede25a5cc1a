import type { Logger } from 'pino'
import { type HeldLease, acquireLease } from './acquire-lease.js'
import { Backoff, type Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import { LeaseKeeper, expiresAt } from './keep-lease.js'
import { extendPermit, keepPermit } from './keep-permit.js'
import { LeaseView, type OwnMark, type ViewMemory } from './lease-view.js'
import { runAll } from './loops.js'
import type { NetworkConfig } from './network-config.js'
import { OrdersObeyed } from './obey-orders.js'
import { OrderDesk } from './order-desk.js'
import type { WhoWeAre } from './own-record.js'
import { Permit } from './permit.js'
import type { Registry } from './registry.js'
import { type Subnet, formatSubnet } from './subnet-key.js'
import type { Holder } from './subnet-record.js'
import { releaseSubnet } from './subnet-writes.js'
import { takeBackLeases } from './take-back-leases.js'
import { TenureEnd } from './tenure-end.js'

/** Between two attempts to get a subnet, in ms. */
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

/** How often it is tried to give a subnet back. */
const RELEASE_ATTEMPTS = 5

/** How long a newcomer waits for others after the registry was away or empty. */
const SETTLE_MS = 5000

/** A wait that something else ends. */
const DAY_MS = 86_400_000

export interface HostLeaseOptions extends WhoWeAre {
  readonly registry: Registry
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly config: NetworkConfig
  readonly ttlSeconds: number
  readonly mayBeClone: boolean
  /** What this host wrote last, as far as it remembers. */
  readonly former?: Holder | undefined
  /** The registry was away or empty when this host looked first. */
  readonly isUnsettled: boolean
  /** What an earlier run of the daemon held and knew. */
  readonly memory?: LeaseMemory | undefined
  /** The registry does not answer: what an earlier run held is held until it does. */
  readonly isRegistryAway: boolean
  readonly clock: Clock
  readonly log: Logger
  /** Called with a reason while there is no subnet, and with undefined when there is one. */
  readonly onWait: (reason: string | undefined) => void
}

/** A subnet to hold, and until when forwarding from it is allowed already. */
interface Start {
  readonly held: HeldLease
  /** Clock time. */
  readonly permitUntil: number
}

/** What a daemon held and knew when it was there last. */
export interface LeaseMemory extends Start, ViewMemory {}

/** The time during which this host holds one subnet. */
export interface Tenure {
  readonly keeper: LeaseKeeper
  readonly view: LeaseView
  readonly permit: Permit
}

/**
 * What this host does with a subnet: makes its devices, follows the view,
 * forwards while it is permitted. Resolves when `signal` aborts and nothing is
 * forwarded any more. `extend` is called with every word on the permit.
 */
export interface Host {
  serve(tenure: Tenure, signal: AbortSignal): Promise<void>
  /** @param until clock time until which packets may flow. */
  permit(until: number): Promise<void>
  /** The registry says that this host has no subnet: ends what an earlier run of the daemon left forwarding. */
  abandon(): Promise<void>
}

/**
 * This host's place in the network, over all its tenures: takes a subnet, keeps
 * it, and when it is lost to another host or an order says so, takes another.
 *
 *            acquire                 lost · moved
 *   seeking ─────────► holding ───────────────────► seeking
 *      ▲                  │ revoked
 *      │ order deleted    ▼
 *      └─────────────── barred
 */
export class HostLease {
  readonly view: LeaseView
  readonly #options: HostLeaseOptions
  #previous: Subnet | undefined
  /** The record that was made last. */
  #made: HeldLease | undefined
  #remembered: Start | undefined
  #keeper: LeaseKeeper | undefined
  readonly #desk: OrderDesk
  readonly #orders: OrdersObeyed
  /** Aborts when the subnet is to be given back for good. */
  readonly #released = new AbortController()

  constructor(options: HostLeaseOptions) {
    this.#options = options
    this.#previous = options.previous
    this.#made = options.memory?.held
    this.#desk = new OrderDesk({ ...options, hostId: options.holder.hostId })
    this.view = new LeaseView(options)
    this.#orders = new OrdersObeyed({
      desk: this.#desk,
      table: this.view.table,
      config: options.config,
    })
    this.view.reachable = !options.isRegistryAway
    const { memory } = options
    if (memory === undefined) return
    this.view.remember(memory, this.#markOf(memory.held))
    if (options.isRegistryAway) this.#remembered = memory
  }

  #markOf(held: HeldLease): OwnMark {
    const { key, createRevision, leaseId } = held
    const { ttlSeconds } = this.#options
    return { key, createRevision, leaseId, expiresAt: expiresAt(held, ttlSeconds) }
  }

  /**
   * Runs until `signal` aborts, whose reason goes on to the tenure's signal, or
   * until the subnet is released. Rejects with ERR_HOST_CLONED when another
   * living host has our id: take a new one.
   */
  async run(host: Host, signal: AbortSignal): Promise<void> {
    const over = new AbortController()
    await runAll(AbortSignal.any([signal, over.signal]), [
      each => this.view.run(each),
      each => this.#desk.follow(each),
      async each => {
        await this.#live(host, each)
        over.abort()
      },
    ])
  }

  get hostId(): string {
    return this.#options.holder.hostId
  }

  /** What is held now, or was held last if `run` has ended. */
  get held(): HeldLease | undefined {
    return this.#keeper?.held
  }

  /** Gives the subnet back for good; `run` resolves when that is done. */
  release(): void {
    this.#released.abort()
  }

  get #isReleased(): boolean {
    return this.#released.signal.aborted
  }

  /** Aborts with `signal`, and when an order or a release is to be looked at. */
  #untilNews(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, this.#desk.news, this.#released.signal])
  }

  async #live(host: Host, signal: AbortSignal): Promise<void> {
    let end: TenureEnd | undefined
    while (!signal.aborted && !this.#isReleased) {
      if (!(await this.#untilAllowed(host, signal))) return
      const start = this.#recall() ?? (await this.#acquire(end, host, signal))
      if (start === undefined) return
      end = await this.#hold(start, host, signal)
      if (end !== undefined) await this.#finish(start.held, end)
      // Two that go by one id would take the subnet from each other for ever.
      if (end?.kind === 'cloned') throw new SubnetError('ERR_HOST_CLONED', end.message)
    }
  }

  /** What an earlier run held, while the registry has not answered this one. */
  #recall(): Start | undefined {
    const remembered = this.#remembered
    this.#remembered = undefined
    return remembered
  }

  /** An order to hold nothing stands until it is deleted. Returns whether there is anything left to do. */
  async #untilAllowed(host: Host, signal: AbortSignal): Promise<boolean> {
    const { clock, onWait } = this.#options
    while (!signal.aborted && !this.#isReleased) {
      const news = this.#untilNews(signal)
      const { order } = this.#desk
      if (order?.kind !== 'revoke') return true
      await host.abandon()
      if (order.state !== 'done')
        await this.#desk.answer({ state: 'done', answer: 'no subnet is held' })
      onWait('an order bars this host from the network: flannelctl lease allow')
      await clock.sleep(DAY_MS, news)
    }
    return false
  }

  /** Takes a subnet; waits, and says so, while none is free or the registry is away. */
  async #acquire(
    end: TenureEnd | undefined,
    host: Host,
    signal: AbortSignal,
  ): Promise<Start | undefined> {
    const { log, onWait, clock } = this.#options
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    let { isUnsettled } = this.#options
    let said = ''
    while (!signal.aborted && !this.#isReleased) {
      try {
        const held = await acquireLease({
          ...this.#options,
          previous: this.#previous,
          made: this.#made,
          wanted: end?.to,
          unwanted: end?.kind === 'moved' ? this.#previous : undefined,
          believed: this.#believed(),
          settleMs: isUnsettled ? SETTLE_MS : 0,
          signal,
        })
        log.info(
          { subnet: formatSubnet(held.subnet), hostId: this.#options.holder.hostId },
          'lease acquired',
        )
        onWait(undefined)
        return { held, permitUntil: 0 }
      } catch (error) {
        if (hasEnded(signal)) return undefined
        if (isWithoutSubnet(error)) await host.abandon()
        if (!isWorthWaiting(error)) throw error
        if (error.message !== said)
          log.warn({ reason: error.message }, 'waiting for a subnet')
        said = error.message
        isUnsettled ||=
          error.code === 'ERR_REGISTRY_UNAVAILABLE' || error.code === 'ERR_SUBNET_CONFIG'
        // What an order wanted may be gone: then any subnet, also the one we had.
        if (error.code === 'ERR_SUBNET_TAKEN' || error.code === 'ERR_SUBNET_EXHAUSTED')
          end = undefined
        onWait(error.message)
        await backoff.wait(this.#untilNews(signal))
      }
    }
    return undefined
  }

  /** Subnets of other hosts, also of those that the registry has forgotten. */
  #believed(): Subnet[] {
    return this.view.table
      .records()
      .filter(({ holder }) => holder.hostId !== this.hostId)
      .map(({ subnet }) => subnet)
  }

  /** One tenure. Returns why it ended; undefined when `signal` aborted. */
  async #hold(
    { held, permitUntil }: Start,
    host: Host,
    signal: AbortSignal,
  ): Promise<TenureEnd | undefined> {
    const { view } = this
    this.#previous = held.subnet
    this.#made = held
    const permit = new Permit(permitUntil)
    const keeper = new LeaseKeeper({
      ...this.#options,
      held,
      isDoubted: key => view.table.isDoubted(key),
      onHeld: async now => {
        this.#made = now
        view.setOwn(this.#markOf(now))
        const { clock } = this.#options
        // What the path was told before may be too much now, or have run out while we slept.
        if (keeper.provenUntil < permit.until || permit.until < clock.now())
          await extendPermit(tenure, host, clock)
      },
    })
    this.#keeper = keeper
    view.setOwn(this.#markOf(held))
    const forget = view.subscribe(watchOwnRecord(view, keeper))
    const tenure = { keeper, view, permit }
    try {
      await runAll(signal, [
        each => keepOrLose(keeper, each),
        each => this.#obey(keeper, each),
        each => takeBackLeases({ ...this.#options, view, keeper }, each),
        each => keepPermit(tenure, host, this.#options.clock, each),
        each => host.serve(tenure, each),
      ])
      return undefined
    } catch (error) {
      if (!(error instanceof TenureEnd)) throw error
      this.#keeper = undefined
      return error
    } finally {
      forget()
      view.setOwn(undefined)
    }
  }

  /** Ends the tenure when an order or a release says so. */
  async #obey(keeper: LeaseKeeper, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const news = this.#untilNews(signal)
      if (this.#isReleased)
        throw new TenureEnd('released', 'the subnet is released on request')
      await this.#orders.obey(keeper.held)
      await this.#options.clock.sleep(DAY_MS, news)
    }
  }

  /** Nothing is forwarded any more: gives the subnet back if it is ours to give. */
  async #finish(held: HeldLease, end: TenureEnd): Promise<void> {
    const { log, registry, prefix, clock } = this.#options
    log.warn(
      { subnet: formatSubnet(held.subnet), reason: end.message },
      'subnet given up',
    )
    if (end.kind === 'lost' || end.kind === 'cloned') {
      this.#previous = undefined
      return
    }
    await retry(new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS), () =>
      releaseSubnet(registry, prefix, this.hostId, held.subnet),
    )
  }
}

/** Looks at once when our record is gone or another's, or when the registry is back. */
function watchOwnRecord(view: LeaseView, keeper: LeaseKeeper): () => void {
  let wasReachable = view.reachable
  return () => {
    if (!view.listed) return
    const { key, leaseId } = keeper.held
    const record = view.table.get(key)
    const isAsLeft =
      record?.kind === 'lease' ? record.leaseId === leaseId : leaseId === undefined
    if (!isAsLeft || view.table.isOrphan(key) || (view.reachable && !wasReachable))
      keeper.checkNow()
    wasReachable = view.reachable
  }
}

async function keepOrLose(keeper: LeaseKeeper, signal: AbortSignal): Promise<void> {
  try {
    await keeper.run(signal)
  } catch (error) {
    if (isSubnetError(error, 'ERR_LEASE_LOST')) throw new TenureEnd('lost', error.message)
    if (isSubnetError(error, 'ERR_HOST_CLONED'))
      throw new TenureEnd('cloned', error.message)
    throw error
  }
}

/** A few times; what fails all the same is settled by the end of the lease. */
async function retry(backoff: Backoff, attempt: () => Promise<void>): Promise<void> {
  for (let round = 1; round <= RELEASE_ATTEMPTS; round++) {
    try {
      await attempt()
      return
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      await backoff.wait()
    }
  }
}

/** Asked anew: a signal may abort while something is waited for. */
function hasEnded({ aborted }: AbortSignal): boolean {
  return aborted
}

/** The registry has answered, and nothing that it has is ours. */
function isWithoutSubnet(error: unknown): boolean {
  return (
    isSubnetError(error, 'ERR_HOST_CLONED') ||
    isSubnetError(error, 'ERR_SUBNET_EXHAUSTED')
  )
}

function isWorthWaiting(error: unknown): error is SubnetError {
  return (
    isSubnetError(error, 'ERR_SUBNET_EXHAUSTED') ||
    isSubnetError(error, 'ERR_SUBNET_TAKEN') ||
    isSubnetError(error, 'ERR_SUBNET_CONFIG') ||
    isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE') ||
    isSubnetError(error, 'ERR_REGISTRY_REFUSED')
  )
}
