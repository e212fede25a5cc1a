import type {
  Change,
  Entry,
  Guard,
  Outcome,
  Snapshot,
  Write,
} from '../../lib/subnet/registry.js'
import { revisionOf } from '../../lib/subnet/registry.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import type { Clock } from '../../lib/subnet/clock.js'

interface EtcdLease {
  readonly ttlSeconds: number
  readonly expiresAt: number
}

/** A watch that waits for changes under a prefix. */
interface Waiter {
  readonly prefix: string
  readonly wake: (revision: bigint) => void
}

interface Contents {
  readonly revision: bigint
  readonly compacted: bigint
  readonly entries: ReadonlyMap<string, Entry>
  readonly history: readonly Change[]
  readonly leases: ReadonlyMap<string, EtcdLease>
}

const EMPTY: Contents = {
  revision: 1n,
  compacted: 0n,
  entries: new Map(),
  history: [],
  leases: new Map(),
}

/** A copy of everything, as an operator's backup holds it. */
export type Backup = Contents

/**
 * What an etcd server knows and does, in memory: revisions, compare-and-swap,
 * leases that end by the clock, history and its compaction, backup, wipe and
 * restart. MemoryRegistry is a client of it.
 */
export class MemoryEtcd {
  readonly clock: Clock
  #contents = EMPTY
  #up = true
  #grants = 0
  /** Counts the times that connections were lost. */
  #epoch = 0
  readonly #waiting = new Set<Waiter>()
  /** No lease ends before. */
  #nextExpiry = 0

  constructor(clock: Clock) {
    this.clock = clock
  }

  get up(): boolean {
    return this.#up
  }

  /** Watches of another epoch have lost their connection. */
  get epoch(): number {
    return this.#epoch
  }

  get revision(): bigint {
    this.#expire()
    return this.#contents.revision
  }

  read(prefix: string): Snapshot {
    this.#expire()
    const { revision, entries } = this.#contents
    const found = [...entries.values()]
      .filter(({ key }) => key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
    return { revision, entries: found }
  }

  get(key: string): Entry | undefined {
    this.#expire()
    return this.#contents.entries.get(key)
  }

  commit(guards: readonly Guard[], writes: readonly Write[]): Outcome {
    this.#expire()
    for (const write of writes) {
      const leaseId = write.kind === 'put' ? write.leaseId : undefined
      if (leaseId !== undefined && !this.#contents.leases.has(leaseId)) {
        throw new SubnetError('ERR_REGISTRY_UNAVAILABLE', 'requested lease not found')
      }
    }
    const succeeded = guards.every(
      ({ key, modRevision }) =>
        (this.#contents.entries.get(key)?.modRevision ?? 0n) === modRevision,
    )
    if (succeeded) this.#write(writes)
    return { succeeded, revision: this.#contents.revision }
  }

  /** All writes get one revision; deleting what is not there is no change. */
  #write(writes: readonly Write[]): void {
    const { entries: before, history, revision: last } = this.#contents
    const revision = last + 1n
    const entries = new Map(before)
    const changes: Change[] = []
    for (const write of writes) {
      const old = entries.get(write.key)
      if (write.kind === 'put') {
        const { key, value, leaseId } = write
        const createRevision = old?.createRevision ?? revision
        const base = { key, value, createRevision, modRevision: revision }
        const entry = { ...base, ...(leaseId !== undefined && { leaseId }) }
        entries.set(key, entry)
        changes.push({ kind: 'put', entry })
      } else if (old !== undefined) {
        entries.delete(write.key)
        changes.push({ kind: 'delete', key: write.key, modRevision: revision })
      }
    }
    if (changes.length === 0) return
    this.#contents = {
      ...this.#contents,
      revision,
      entries,
      history: [...history, ...changes],
    }
    for (const { prefix, wake } of [...this.#waiting])
      if (changes.some(change => keyOf(change).startsWith(prefix))) wake(revision)
  }

  grant(ttlSeconds: number): string {
    this.#grants += 1
    const id = String(7_587_000_000_000_000_000n + BigInt(this.#grants))
    this.#setLease(id, ttlSeconds)
    return id
  }

  #setLease(id: string, ttlSeconds: number): void {
    const expiresAt = this.clock.now() + ttlSeconds * 1000
    const leases = new Map(this.#contents.leases)
    leases.set(id, { ttlSeconds, expiresAt })
    this.#nextExpiry = Math.min(this.#nextExpiry, expiresAt)
    this.#contents = { ...this.#contents, leases }
    void this.clock.sleep(expiresAt - this.clock.now()).then(() => {
      this.#expire()
    })
  }

  keepAlive(id: string): number {
    this.#expire()
    const lease = this.#contents.leases.get(id)
    if (lease === undefined) return 0
    this.#setLease(id, lease.ttlSeconds)
    return lease.ttlSeconds
  }

  timeToLive(id: string): number {
    this.#expire()
    const lease = this.#contents.leases.get(id)
    return lease === undefined
      ? 0
      : Math.ceil((lease.expiresAt - this.clock.now()) / 1000)
  }

  revoke(id: string): void {
    const leases = new Map(this.#contents.leases)
    if (!leases.delete(id)) return
    this.#contents = { ...this.#contents, leases }
    this.#write(
      [...this.#contents.entries.values()]
        .filter(({ leaseId }) => leaseId === id)
        .map(({ key }) => ({ kind: 'delete', key })),
    )
  }

  #expire(): void {
    const now = this.clock.now()
    if (!this.#up || now < this.#nextExpiry) return
    for (const [id, { expiresAt }] of this.#contents.leases)
      if (expiresAt <= now) this.revoke(id)
    this.#nextExpiry = Math.min(
      ...Array.from(this.#contents.leases.values(), ({ expiresAt }) => expiresAt),
    )
  }

  /**
   * Every change under `prefix` from revision `from` on, and the revision to go on
   * from. History that is cut at `from` itself may lack a deletion made there, so
   * it counts as gone, as EtcdRegistry has it.
   */
  changes(prefix: string, from: bigint): { changes: Change[]; next: bigint } {
    const { compacted, history, revision } = this.#contents
    if (from <= compacted) {
      throw new SubnetError(
        'ERR_REVISION_COMPACTED',
        `revision ${from} is compacted, history starts at ${compacted}`,
      )
    }
    const start = history.findLastIndex(change => revisionOf(change) < from) + 1
    const changes = history
      .slice(start)
      .filter(change => keyOf(change).startsWith(prefix))
    return { changes, next: from > revision ? from : revision + 1n }
  }

  /**
   * Resolves at the next change under `prefix`, at `wakeAll`, or when `signal`
   * aborts, with the revision from which on there may be any.
   */
  async nextChange(prefix: string, signal: AbortSignal): Promise<bigint> {
    return await new Promise<bigint>(resolve => {
      const waiter: Waiter = {
        prefix,
        wake: revision => {
          signal.removeEventListener('abort', end)
          this.#waiting.delete(waiter)
          resolve(revision)
        },
      }
      const end = (): void => {
        waiter.wake(this.#contents.revision + 1n)
      }
      if (signal.aborted) {
        end()
        return
      }
      this.#waiting.add(waiter)
      signal.addEventListener('abort', end)
    })
  }

  /** Lets every watch look again at what it has and whether it still stands. */
  wakeAll(): void {
    for (const waiter of [...this.#waiting]) waiter.wake(this.#contents.revision + 1n)
  }

  /** Forgets what changed up to `revision`, but not what is there now. */
  compact(revision: bigint): void {
    const { history } = this.#contents
    this.#contents = {
      ...this.#contents,
      compacted: revision,
      history: history.filter(change => revisionOf(change) > revision),
    }
  }

  /** Breaks every connection; the next call finds the server again. */
  cut(): void {
    this.#epoch += 1
    this.wakeAll()
  }

  stop(): void {
    this.#up = false
    this.cut()
  }

  /** etcd gives every lease its whole time again when a leader is elected. */
  start(): void {
    this.#up = true
    for (const [id, { ttlSeconds }] of this.#contents.leases)
      this.#setLease(id, ttlSeconds)
    this.cut()
  }

  backup(): Backup {
    return this.#contents
  }

  restore(backup: Backup): void {
    this.stop()
    this.#contents = backup
    this.start()
  }

  wipe(): void {
    this.restore(EMPTY)
  }
}

function keyOf(change: Change): string {
  return change.kind === 'put' ? change.entry.key : change.key
}
