import type { Logger } from 'pino'
import { type HeldLease, acquireLease } from './acquire-lease.js'
import { hasFreeSubnet } from './allocate.js'
import { Backoff, type Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import { followPrefix } from './follow-prefix.js'
import { LeaseKeeper, provenUntil } from './keep-lease.js'
import { LeaseView, type OwnMark } from './lease-view.js'
import { runAll } from './loops.js'
import { type NetworkConfig, isSubnetOfNetwork } from './network-config.js'
import {
  type Order,
  type StandingOrder,
  formatOrder,
  orderKey,
  readOrder,
} from './orders.js'
import type { WhoWeAre } from './own-record.js'
import { PERMIT_INTERVAL_MS, Permit } from './permit.js'
import type { Entry, Registry } from './registry.js'
import {
  type Subnet,
  formatSubnet,
  formatSubnetKey,
  subnetsOverlap,
} from './subnet-key.js'
import { type Holder, readSubnetRecord } from './subnet-record.js'
import { deleteSubnet } from './subnet-writes.js'

/** Between two attempts to get a subnet, in ms. */
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

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

/** What a daemon knew when it was there last. */
export interface LeaseMemory extends Start {
  /** Everybody's records. */
  readonly records: readonly Entry[]
  /** Keys of those that the registry had forgotten. */
  readonly orphans: readonly string[]
}

/** Why a host gives up a subnet that it holds: the reason that a tenure's signal aborts with. */
export class TenureEnd extends Error {
  override readonly name = 'TenureEnd'
  readonly kind: 'lost' | 'cloned' | 'moved' | 'revoked' | 'released'
  readonly to: Subnet | undefined

  constructor(kind: TenureEnd['kind'], message: string, to?: Subnet) {
    super(message)
    this.kind = kind
    this.to = to
  }
}

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
  #order: StandingOrder | undefined
  /** The order that was obeyed or refused last, with the answer that the operator is owed. */
  #answered: StandingOrder | undefined
  #isReleased = false
  /** Aborts when the order changes or the subnet is to be released. */
  #news = new AbortController()

  constructor(options: HostLeaseOptions) {
    this.#options = options
    this.#previous = options.previous
    this.#made = options.memory?.held
    this.view = new LeaseView(options)
    this.view.reachable = !options.isRegistryAway
    const { memory } = options
    if (memory === undefined) return
    this.view.remember(memory, this.#markOf(memory.held))
    if (options.isRegistryAway) this.#remembered = memory
  }

  #markOf(held: HeldLease): OwnMark {
    const { key, createRevision, leaseId } = held
    const expiresAt = provenUntil(held, this.#options.ttlSeconds)
    return { key, createRevision, leaseId, expiresAt }
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
      each => this.#followOrders(each),
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
    this.#isReleased = true
    this.#tellNews()
  }

  #tellNews(): void {
    this.#news.abort()
    this.#news = new AbortController()
  }

  async #live(host: Host, signal: AbortSignal): Promise<void> {
    let end: TenureEnd | undefined
    while (!signal.aborted && !this.#isReleased) {
      if (!(await this.#untilAllowed(signal))) return
      const start = this.#recall() ?? (await this.#acquire(end, signal))
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

  /** An order to hold nothing stands until it is deleted. */
  async #untilAllowed(signal: AbortSignal): Promise<boolean> {
    const { clock, onWait } = this.#options
    while (this.#order?.kind === 'revoke' && !signal.aborted) {
      await this.#answer('done', 'no subnet is held')
      onWait('an order bars this host from the network: flannelctl lease allow')
      const news = this.#news.signal
      await clock.sleep(DAY_MS, AbortSignal.any([signal, news]))
    }
    return !signal.aborted
  }

  /** Takes a subnet; waits, and says so, while none is free or the registry is away. */
  async #acquire(
    end: TenureEnd | undefined,
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
        if (!isWorthWaiting(error)) throw error
        if (error.message !== said)
          log.warn({ reason: error.message }, 'waiting for a subnet')
        said = error.message
        isUnsettled ||= error.code === 'ERR_REGISTRY_UNAVAILABLE'
        // What an order wanted may be gone: then any subnet, also the one we had.
        if (error.code === 'ERR_SUBNET_TAKEN' || error.code === 'ERR_SUBNET_EXHAUSTED')
          end = undefined
        onWait(error.message)
        await backoff.wait(AbortSignal.any([signal, this.#news.signal]))
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
      onHeld: now => {
        this.#made = now
        view.setOwn(this.#markOf(now))
      },
    })
    this.#keeper = keeper
    view.setOwn(this.#markOf(held))
    const forget = view.subscribe(watchOwnRecord(view, keeper))
    const tenure = { keeper, view, permit }
    try {
      await runAll(signal, [
        each => keepOrLose(keeper, each),
        each => this.#obey(each),
        each => this.#takeBack(keeper, each),
        each => extendPermit(tenure, host, this.#options.clock, each),
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

  /** Ends the tenure when an order says so. */
  async #obey(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    while (!signal.aborted) {
      const order = this.#order
      if (this.#isReleased) {
        throw new TenureEnd('released', 'the subnet is released on request')
      }
      if (order?.kind === 'revoke') {
        throw new TenureEnd('revoked', 'an order says to give the subnet back')
      }
      if (order?.kind === 'move') await this.#obeyMove(order)
      const news = this.#news.signal
      await clock.sleep(DAY_MS, AbortSignal.any([signal, news]))
    }
  }

  /** An order whose answer cannot be written is not obeyed: it would be obeyed again at every start. */
  async #obeyMove(order: Order): Promise<void> {
    const held = this.#keeper?.held
    if (order.state === 'taken' && held !== undefined) {
      await this.#answer('done', `it holds ${formatSubnet(held.subnet)} now`)
    }
    if (order.state !== 'open') return
    const obstacle = this.#obstacleTo(order)
    if (obstacle !== undefined) {
      await this.#answer('refused', obstacle)
    } else if (await this.#answer('taken', 'it is moving')) {
      throw new TenureEnd('moved', 'an order says to take another subnet', order.to)
    }
  }

  /**
   * Deletes leases of ours on other subnets than the one held: a registry that was
   * restored has them, and they keep their holders of today from their subnets.
   */
  async #takeBack(keeper: LeaseKeeper, signal: AbortSignal): Promise<void> {
    const { registry, prefix, holder, clock, log } = this.#options
    const { view } = this
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    while (!signal.aborted) {
      const news = new AbortController()
      const forget = view.subscribe(() => {
        news.abort()
      })
      try {
        for (const record of view.listed
          ? view.forgottenLeases(holder, keeper.held.key)
          : []) {
          log.warn(
            { subnet: formatSubnet(record.subnet) },
            'etcd has an old lease of ours on another subnet; deleting it',
          )
          await registry.commit(
            [{ key: record.key, modRevision: record.modRevision }],
            deleteSubnet(prefix, record.subnet),
          )
        }
        await clock.sleep(DAY_MS, AbortSignal.any([signal, news.signal]))
      } catch (error) {
        if (!(error instanceof SubnetError)) throw error
        await backoff.wait(signal)
      } finally {
        forget()
      }
    }
  }

  #obstacleTo({ to }: Order): string | undefined {
    const held = this.#keeper?.held
    if (held !== undefined && held.leaseId === undefined)
      return `${formatSubnet(held.subnet)} is reserved for this host; unreserve it first`
    if (to === undefined) return this.#isAnotherFree() ? undefined : 'no other is free'
    if (!isSubnetOfNetwork(to, this.#options.config))
      return `${formatSubnet(to)} is not a subnet of the network`
    const taken = this.view.table
      .records()
      .find(record => subnetsOverlap(record.subnet, to))
    return taken && `${formatSubnet(to)} is taken`
  }

  #isAnotherFree(): boolean {
    const { config } = this.#options
    const held = this.view.table.records().map(({ subnet }) => subnet)
    return config.families.every(family => hasFreeSubnet(family, held))
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
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    await retry(backoff, () =>
      releaseSubnet(registry, prefix, this.#options.holder.hostId, held.subnet),
    )
  }

  async #followOrders(signal: AbortSignal): Promise<void> {
    const { registry, prefix, holder, clock, log } = this.#options
    const key = orderKey(prefix, holder.hostId)
    const take = (order: StandingOrder | undefined): void => {
      const isOld = order?.modRevision === this.#answered?.modRevision
      this.#order = order !== undefined && isOld ? this.#answered : order
      this.#tellNews()
    }
    await followPrefix(
      {
        registry,
        prefix: key,
        clock,
        log,
        onSnapshot: ({ entries }) => {
          const entry = entries.find(candidate => candidate.key === key)
          take(entry && readOrder(entry))
        },
        onChanges: changes => {
          for (const change of changes) {
            if (change.kind === 'delete' && change.key === key) take(undefined)
            if (change.kind === 'put' && change.entry.key === key)
              take(readOrder(change.entry))
          }
        },
      },
      signal,
    )
  }

  /** Tells the operator what comes of the order. Returns whether that could be written. */
  async #answer(state: Order['state'], answer: string): Promise<boolean> {
    const { registry, prefix, holder, clock, log } = this.#options
    const order = this.#order
    if (order?.state !== 'open' && order?.state !== 'taken') return false
    const answered = { ...order, state, answer }
    this.#order = answered
    this.#answered = answered
    const key = orderKey(prefix, holder.hostId)
    const value = formatOrder(answered)
    const write = async (): Promise<void> => {
      const { succeeded, revision } = await registry.commit(
        [{ key, modRevision: order.modRevision }],
        [{ kind: 'put', key, value }],
      )
      // It may have been replaced meanwhile; then there is another to come.
      if (succeeded) this.#order = { ...answered, modRevision: revision }
    }
    // Not for long: containers wait for the subnet, the operator only for a word.
    const failure = await retry(
      new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS),
      write,
      2,
    )
    const fields = { order: order.kind, answer }
    if (failure === undefined) log.info(fields, 'order answered')
    else log.error({ ...fields, reason: failure.message }, 'an order cannot be answered')
    return failure === undefined
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

async function extendPermit(
  { keeper, permit }: Tenure,
  host: Host,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    const now = clock.now()
    const before = permit.until
    await host.permit(permit.extend(now, keeper.provenUntil))
    // A permit that has run out waits for proof; none is nearer than the next look at the registry.
    if (before !== 0 && before < now && permit.until === before) keeper.checkNow()
    await clock.sleep(PERMIT_INTERVAL_MS, signal)
  }
  permit.withdraw()
  if (signal.reason instanceof TenureEnd) await host.permit(0)
}

/** Deletes a subnet's record if it is that host's lease. A reservation is an operator's. */
export async function releaseSubnet(
  registry: Registry,
  prefix: string,
  hostId: string,
  subnet: Subnet,
): Promise<void> {
  const key = formatSubnetKey(prefix, subnet)
  const { entry } = await registry.get(key)
  if (entry === undefined) return
  const record = readSubnetRecord(entry)
  if (record?.holder.hostId !== hostId || record.kind === 'reservation') return
  await registry.commit(
    [{ key, modRevision: entry.modRevision }],
    deleteSubnet(prefix, subnet),
  )
  await registry.revokeLease(record.leaseId)
}

/** A few times, and returns why all failed; that is settled by the end of the lease, or by asking again. */
async function retry(
  backoff: Backoff,
  attempt: () => Promise<void>,
  times = 5,
): Promise<SubnetError | undefined> {
  for (let round = 1; ; round++) {
    try {
      await attempt()
      return undefined
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      if (round === times) return error
      await backoff.wait()
    }
  }
}

/** Asked anew: a signal may abort while something is waited for. */
function hasEnded({ aborted }: AbortSignal): boolean {
  return aborted
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
