import type { Logger } from 'pino'
import type { HeldLease } from './acquire-lease.js'
import { Backoff, type Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import { formatAddress } from './prefix.js'
import type { Entry, Registry } from './registry.js'
import { formatSubnet } from './subnet-key.js'
import { type Holder, formatHolder, parseSubnetRecord } from './subnet-record.js'

/** No lease is renewed less often, however long it is. */
const MAX_RENEW_INTERVAL_MS = 5 * 60_000

const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

export interface KeepLease {
  readonly registry: Registry
  readonly held: HeldLease
  readonly holder: Holder & { readonly hostId: string }
  readonly ttlSeconds: number
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Keeps our lease: by keep-alives of the one etcd lease, which make no event for
 * anybody, and by putting the record back when somebody deleted it.
 */
export class LeaseKeeper {
  #held: HeldLease
  #wake = new AbortController()
  readonly #options: KeepLease

  constructor(options: KeepLease) {
    this.#options = options
    this.#held = options.held
  }

  get held(): HeldLease {
    return this.#held
  }

  /** When the registry may give the subnet away, in ms of the clock; never for a reservation. */
  get expiresAt(): number {
    return this.#held.leaseId === undefined
      ? Number.POSITIVE_INFINITY
      : this.#held.provenAt + this.#options.ttlSeconds * 1000
  }

  /** Our record was seen to be gone: do not wait for the next renewal. */
  checkNow(): void {
    this.#wake.abort()
  }

  /** Renews until `signal` aborts. Rejects with ERR_LEASE_LOST when another host has our subnet. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, ttlSeconds } = this.#options
    const intervalMs = Math.min((ttlSeconds * 1000) / 3, MAX_RENEW_INTERVAL_MS)
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    let failing = false
    await this.#sleep(intervalMs, signal)
    while (!signal.aborted) {
      try {
        await this.#check()
        if (failing) log.info('lease renewed again')
        failing = false
        backoff.reset()
        await this.#sleep(intervalMs, signal)
      } catch (error) {
        if (!isRetryable(error)) throw error
        if (!failing)
          log.warn({ reason: error.message }, 'cannot renew the lease; trying again')
        failing = true
        await backoff.wait(signal)
      }
    }
  }

  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    await this.#options.clock.sleep(ms, AbortSignal.any([signal, this.#wake.signal]))
    this.#wake = new AbortController()
  }

  /** Renews the lease and puts the record back if it is gone. */
  async #check(): Promise<void> {
    const { registry, clock } = this.#options
    const now = clock.now()
    const { leaseId, key } = this.#held
    const alive = leaseId === undefined || (await registry.keepLeaseAlive(leaseId)) > 0
    const { entry } = await registry.get(key)
    if (entry === undefined) {
      await this.#restore(alive ? leaseId : undefined)
    } else if (alive && entry.leaseId === leaseId) {
      this.#held = { ...this.#held, provenAt: now }
    } else {
      await this.#adopt(entry)
    }
  }

  /** Creates the record again: the subnet is free, so nothing changes for containers. */
  async #restore(aliveLeaseId: string | undefined): Promise<void> {
    const { log } = this.#options
    log.warn(
      { subnet: formatSubnet(this.#held.subnet) },
      'our lease was gone; putting it back',
    )
    await this.#write(0n, aliveLeaseId)
  }

  /** The record is there on another lease. Ours, or unreadable: written again; else somebody took the subnet. */
  async #adopt(entry: Entry): Promise<void> {
    const other = readHolder(entry)
    if (other !== undefined && other.hostId !== this.#options.holder.hostId) {
      const subnet = formatSubnet(this.#held.subnet)
      const by = other.publicIp ?? other.publicIpv6
      throw new SubnetError(
        'ERR_LEASE_LOST',
        `our subnet ${subnet} is held by ${by ? formatAddress(by) : 'another host'} now`,
      )
    }
    await this.#write(entry.modRevision, undefined)
  }

  async #write(expected: bigint, aliveLeaseId: string | undefined): Promise<void> {
    const { registry, holder, ttlSeconds, clock } = this.#options
    const { key } = this.#held
    const provenAt = clock.now()
    const leaseId = aliveLeaseId ?? (await registry.grantLease(ttlSeconds))
    const { succeeded } = await registry.commit(
      [{ key, modRevision: expected }],
      [{ kind: 'put', key, value: formatHolder(holder), leaseId }],
    )
    if (!succeeded) {
      throw new SubnetError('ERR_SUBNET_TAKEN', `${key} changed while we wrote it`)
    }
    this.#held = { ...this.#held, leaseId, provenAt }
  }
}

function readHolder(entry: Entry): Holder | undefined {
  try {
    return parseSubnetRecord(entry).holder
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** Another look at the registry settles these. */
function isRetryable(error: unknown): error is SubnetError {
  return (
    isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE') ||
    isSubnetError(error, 'ERR_REGISTRY_REFUSED') ||
    isSubnetError(error, 'ERR_SUBNET_TAKEN')
  )
}
