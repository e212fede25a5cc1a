import type { Logger } from 'pino'
import type { HeldLease } from './acquire-lease.js'
import { Backoff, type Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import { formatAddress } from './prefix.js'
import type { Entry, Guard, Registry } from './registry.js'
import { formatSubnet } from './subnet-key.js'
import {
  type Holder,
  type OwnHolder,
  formatHolder,
  readSubnetRecord,
  sameAddresses,
} from './subnet-record.js'
import { guardOfConfig, guardsOfFree, putSubnet, readClaims } from './subnet-writes.js'

/** No lease is renewed less often, however long it is. */
const MAX_RENEW_INTERVAL_MS = 5 * 60_000

const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

/** How often a lease of that length is kept alive. */
export function renewIntervalMs(ttlSeconds: number): number {
  return Math.min((ttlSeconds * 1000) / 3, MAX_RENEW_INTERVAL_MS)
}

/** When a registry that forgets nothing lets the record go, in ms of the clock; never for a reservation. */
export function expiresAt({ leaseId, provenAt }: HeldLease, ttlSeconds: number): number {
  return leaseId === undefined ? Number.POSITIVE_INFINITY : provenAt + ttlSeconds * 1000
}

/** When the registry may give the subnet away, in ms of the clock: at any time once its last answer lacked our record. */
export function provenUntil(held: HeldLease, ttlSeconds: number): number {
  return held.isDenied === true ? held.provenAt : expiresAt(held, ttlSeconds)
}

/**
 * How long another host's record is doubted that was in a backup from which the
 * registry was restored. Its host, if it lives on another subnet now, takes it
 * back.
 */
export const DOUBT_MS = 20_000

export interface KeepLease {
  readonly registry: Registry
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly held: HeldLease
  readonly holder: OwnHolder
  readonly ttlSeconds: number
  readonly clock: Clock
  readonly log: Logger
  /** Whether what the registry says of a key may be out of date. */
  isDoubted(key: string): boolean
  /** Called when our record was made anew, proven again or denied. */
  onHeld(held: HeldLease): Promise<void> | void
}

/** The etcd lease was there when it was asked about. No id: what is held is a reservation. */
interface Proof {
  readonly leaseId: string | undefined
  readonly provenAt: number
}

/**
 * Keeps our lease: by keep-alives of the one etcd lease, which make no event for
 * anybody, and by putting the record back when it is gone.
 */
export class LeaseKeeper {
  #held: HeldLease
  /** Since when the registry has an older record of another host in the place of ours. */
  #doubtedSince: number | undefined
  /** How often the lease was renewed, or found as it should be. */
  renewals = 0
  /** Why the lease could not be renewed; undefined when it could. */
  trouble: string | undefined
  #wake = new AbortController()
  readonly #options: KeepLease

  constructor(options: KeepLease) {
    this.#options = options
    this.#held = options.held
  }

  get held(): HeldLease {
    return this.#held
  }

  get provenUntil(): number {
    return provenUntil(this.#held, this.#options.ttlSeconds)
  }

  /** Something happened to our record or the registry: do not wait for the next renewal. */
  checkNow(): void {
    this.#wake.abort()
  }

  /** Renews until `signal` aborts. Rejects with ERR_LEASE_LOST or ERR_HOST_CLONED when another host has our subnet. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, ttlSeconds } = this.#options
    const intervalMs = renewIntervalMs(ttlSeconds)
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    // A lease from an earlier run is proven first.
    await this.#sleep(this.#held.provenAt + intervalMs - clock.now(), signal)
    while (!signal.aborted) {
      try {
        await this.#check()
        this.renewals += 1
        if (this.trouble !== undefined) log.info('lease renewed again')
        this.trouble = undefined
        backoff.reset()
        await this.#sleep(intervalMs, signal)
      } catch (error) {
        if (!isRetryable(error)) throw error
        if (this.trouble === undefined)
          log.warn({ reason: error.message }, 'cannot renew the lease; trying again')
        this.trouble = error.message
        // When a wiped registry has its configuration again, who comes first has the subnet.
        if (error.code === 'ERR_SUBNET_CONFIG' || this.#doubtedSince !== undefined)
          backoff.reset()
        await backoff.wait(AbortSignal.any([signal, this.#wake.signal]))
        // News: what failed before may not fail now.
        if (this.#wake.signal.aborted) backoff.reset()
        this.#rearm()
      }
    }
  }

  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    await this.#options.clock.sleep(ms, AbortSignal.any([signal, this.#wake.signal]))
    this.#rearm()
  }

  #rearm(): void {
    if (this.#wake.signal.aborted) this.#wake = new AbortController()
  }

  /** Renews the lease and puts the record back if it is gone. */
  async #check(): Promise<void> {
    const { registry, clock } = this.#options
    const now = clock.now()
    const { leaseId, key } = this.#held
    const alive = leaseId === undefined || (await registry.keepLeaseAlive(leaseId)) > 0
    const { entry } = await registry.get(key)
    const proof = alive ? { leaseId, provenAt: now } : undefined
    if (alive && entry?.leaseId === leaseId && entry && this.#isAsWritten(entry)) {
      const { createRevision, modRevision } = entry
      await this.#setHeld({ ...this.#held, createRevision, modRevision, provenAt: now })
      return
    }
    try {
      await (entry === undefined ? this.#restore(proof) : this.#adopt(entry, proof))
    } catch (error) {
      this.#held = { ...this.#held, isDenied: true }
      await this.#options.onHeld(this.#held)
      throw error
    }
  }

  async #setHeld(held: HeldLease): Promise<void> {
    this.#held = { ...held, isDenied: false }
    this.#doubtedSince = undefined
    await this.#options.onHeld(this.#held)
  }

  /**
   * Creates the record again: the subnet is free, so nothing changes for
   * containers. Not before the network's configuration is there: a registry
   * without one was wiped, and what its operator puts back decides.
   */
  async #restore(proof: Proof | undefined): Promise<void> {
    const { registry, prefix, holder, log } = this.#options
    const { subnet } = this.#held
    const config = await guardOfConfig(registry, prefix)
    const claims = await readClaims(registry, prefix, subnet)
    const taken = claims.find(({ value }) => value !== holder.hostId)
    if (taken !== undefined) this.#refuse(taken, { backendType: '', hostId: taken.value })
    log.warn({ subnet: formatSubnet(subnet) }, 'our lease was gone; putting it back')
    const guards = [...guardsOfFree(prefix, subnet, claims), config]
    await this.#write(guards, proof)
  }

  /**
   * The record is there, but not as we left it. Ours or unreadable: written
   * again; with an operator's etcd lease or none, that stays. Else somebody took
   * the subnet.
   */
  async #adopt(entry: Entry, proof: Proof | undefined): Promise<void> {
    const other = readSubnetRecord(entry)?.holder
    if (other === undefined ? this.#isStrange(entry) : !this.#isHolder(other))
      this.#refuse(entry, other ?? { backendType: '' })
    const guards = [{ key: entry.key, modRevision: entry.modRevision }]
    const isReservation = entry.leaseId === undefined
    if (isReservation && (other !== undefined || this.#held.leaseId === undefined))
      await this.#becomeReservation(guards, entry.createRevision)
    else await this.#write(guards, proof, entry.createRevision)
  }

  /**
   * Somebody spoiled a record. One that was made after our hold had ended may be
   * that of another host, which was given the subnet meanwhile.
   */
  #isStrange({ createRevision }: Entry): boolean {
    const { clock, ttlSeconds } = this.#options
    const hasEnded = expiresAt(this.#held, ttlSeconds) <= clock.now()
    return hasEnded && createRevision !== this.#held.createRevision
  }

  /** Our subnet is another host's by the registry's word, or that word is an old one. */
  #refuse({ key, modRevision }: Entry, other: Holder): void {
    const { holder, clock } = this.#options
    const subnet = formatSubnet(this.#held.subnet)
    const by = other.publicIp ?? other.publicIpv6
    const name = by ? formatAddress(by) : (other.hostId ?? 'another host')
    const isOurId = other.hostId === holder.hostId
    const isOlder = modRevision < this.#held.modRevision
    if (isOlder && isOurId) return
    if (isOlder || this.#options.isDoubted(key)) {
      this.#doubtedSince ??= clock.now()
      if (clock.now() - this.#doubtedSince < DOUBT_MS)
        throw new SubnetError(
          'ERR_SUBNET_TAKEN',
          `etcd was restored and says that ${name} holds ${subnet}; waiting for it to say otherwise`,
        )
    }
    if (isOurId)
      throw new SubnetError(
        'ERR_HOST_CLONED',
        `our subnet ${subnet} is held by ${name} now, which goes by our host id ${holder.hostId}`,
      )
    throw new SubnetError('ERR_LEASE_LOST', `our subnet ${subnet} is held by ${name} now`)
  }

  #isAsWritten({ value }: Entry): boolean {
    return value === formatHolder(this.#options.holder)
  }

  /** Our id, and not another machine that goes by it; or no id, and our address: flannel's way. */
  #isHolder(other: Holder): boolean {
    const { holder } = this.#options
    const isOurId = other.hostId === undefined || other.hostId === holder.hostId
    return isOurId && sameAddresses(other, holder)
  }

  /** An operator took our record's lease away: it does not expire any more. */
  async #becomeReservation(
    guards: readonly Guard[],
    createRevision: bigint,
  ): Promise<void> {
    const { registry, prefix, holder, clock, log } = this.#options
    const { subnet, leaseId } = this.#held
    const value = formatHolder(holder)
    const record = { value, hostId: holder.hostId }
    const provenAt = clock.now()
    const outcome = await registry.commit(
      guards,
      putSubnet(prefix, subnet, record, undefined),
    )
    if (!outcome.succeeded) throw this.#changedMeanwhile()
    log.info({ subnet: formatSubnet(subnet) }, 'our subnet is reserved for us now')
    if (leaseId !== undefined) await registry.revokeLease(leaseId)
    const { key } = this.#held
    const modRevision = outcome.revision
    await this.#setHeld({ key, subnet, createRevision, modRevision, provenAt })
  }

  async #write(
    guards: readonly Guard[],
    proof: Proof | undefined,
    createRevision?: bigint,
  ): Promise<void> {
    const { registry, prefix, holder, ttlSeconds, clock } = this.#options
    const { key, subnet } = this.#held
    const provenAt = proof?.provenAt ?? clock.now()
    const leaseId = proof?.leaseId ?? (await registry.grantLease(ttlSeconds))
    const record = { value: formatHolder(holder), hostId: holder.hostId }
    const outcome = await registry.commit(
      guards,
      putSubnet(prefix, subnet, record, leaseId),
    )
    if (!outcome.succeeded) {
      // Granted for nothing.
      if (proof?.leaseId === undefined) await registry.revokeLease(leaseId)
      throw this.#changedMeanwhile()
    }
    await this.#setHeld({
      key,
      subnet,
      leaseId,
      provenAt,
      createRevision: createRevision ?? outcome.revision,
      modRevision: outcome.revision,
    })
  }

  #changedMeanwhile(): SubnetError {
    return new SubnetError(
      'ERR_SUBNET_TAKEN',
      `${this.#held.key} changed while we wrote it`,
    )
  }
}

/** Another look at the registry settles these. */
function isRetryable(error: unknown): error is SubnetError {
  return (
    isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE') ||
    isSubnetError(error, 'ERR_REGISTRY_REFUSED') ||
    isSubnetError(error, 'ERR_SUBNET_CONFIG') ||
    isSubnetError(error, 'ERR_SUBNET_TAKEN')
  )
}
