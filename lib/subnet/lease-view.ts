import type { Logger } from 'pino'
import type { Clock } from './clock.js'
import { followPrefix } from './follow-prefix.js'
import { DOUBT_MS } from './keep-lease.js'
import { type Doubt, LeaseTable, type Orphan } from './lease-table.js'
import { runAll } from './loops.js'
import {
  type Change,
  type Entry,
  type Registry,
  type Snapshot,
  revisionOf,
} from './registry.js'
import { subnetsPrefix } from './subnet-key.js'
import {
  type OwnHolder,
  type SubnetRecord,
  sameAddresses,
  toEntry,
} from './subnet-record.js'

/**
 * How long a host that a wiped or restored registry has forgotten is still
 * believed in: several times what a living one needs to put its record back.
 */
const ORPHAN_GRACE_MS = 15 * 60_000

/**
 * How long a record that was deleted is still believed in. A living host puts it
 * back within a round trip to the registry, and meanwhile no packet is lost.
 */
const DELETED_GRACE_MS = 2000

/** A timer that is so late was held up with everything else. */
const LATE_MS = 1000

export interface LeaseViewOptions {
  readonly registry: Registry
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly clock: Clock
  readonly log: Logger
}

/** What is known of everybody's leases. */
export interface ViewMemory {
  /** The registry's revision that it was true of. */
  readonly revision: bigint
  /** Everybody's records, ours included. */
  readonly records: readonly Entry[]
  /** Those that the registry has forgotten. */
  readonly orphans: readonly Orphan[]
  readonly doubts: readonly Doubt[]
}

/** Our own record as we know it to be: what a registry that forgets is recognised by. */
export interface OwnMark {
  readonly key: string
  readonly createRevision: bigint
  /** Undefined for a reservation. Two histories may agree in a revision, but not in this. */
  readonly leaseId: string | undefined
  /** Clock time until which a registry that forgets nothing has it. */
  readonly expiresAt: number
}

/** What this host knows of everybody's leases, kept up with the registry. */
export class LeaseView {
  readonly table = new LeaseTable()
  /** False while the leases cannot be watched, because the registry does not answer. */
  reachable = true
  /** How often all records were listed: at first, and after each watch that was cut. */
  lists = 0
  /** True once a list has come from the registry. */
  listed = false
  readonly #listeners = new Set<() => void>()
  readonly #options: LeaseViewOptions
  #own: OwnMark | undefined
  /** What our record was when the list began that is under way. */
  #ownWhenListed: OwnMark | undefined
  /** Our record was made anew and we have not seen why: the next list may lack more than it. */
  #suspicious = false
  #revision = 0n
  #wake = new AbortController()

  constructor(options: LeaseViewOptions) {
    this.#options = options
  }

  /** Calls `listener` after each change of the table or of reachability; returns how to stop that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #tell(): void {
    for (const listener of this.#listeners) listener()
  }

  /** Tells what our own record is; undefined while we hold none. */
  setOwn(own: OwnMark | undefined): void {
    const before = this.#own
    this.#own = own
    if (before?.key !== own?.key || before === undefined || own === undefined) return
    if (before.expiresAt <= this.#options.clock.now()) return
    const unseen =
      !this.table.isOrphan(own.key) &&
      this.table.get(own.key)?.createRevision === before.createRevision
    if (unseen && own.createRevision !== before.createRevision) this.#suspicious = true
  }

  /** What a later run of the daemon starts from. */
  memory(): ViewMemory {
    const { table } = this
    return {
      revision: this.#revision,
      records: table.records().map(toEntry),
      orphans: table.orphans(),
      doubts: table.doubts(),
    }
  }

  /**
   * Leases in the registry that name us on other subnets than ours. By id and
   * address, since a copy of this machine has the id; by the id alone where we
   * have known another host since.
   */
  forgottenLeases(holder: OwnHolder, key: string): SubnetRecord[] {
    const { table } = this
    const isOld = (record: SubnetRecord): boolean =>
      record.kind === 'lease' &&
      record.key !== key &&
      record.holder.hostId === holder.hostId
    return [
      ...table.records().filter(
        record =>
          isOld(record) &&
          sameAddresses(record.holder, holder) &&
          // Of these the registry has none, or another.
          !table.isOrphan(record.key) &&
          !table.isDoubted(record.key),
      ),
      ...table.doubted().filter(isOld),
    ]
  }

  /**
   * Starts from what an earlier run knew.
   *
   * @param own our record at that time.
   */
  remember({ revision, records, orphans, doubts }: ViewMemory, own: OwnMark): void {
    this.#revision = revision
    this.table.replace({ revision, entries: records })
    this.table.resume(orphans, doubts)
    this.#own = own
    this.#tell()
  }

  async run(signal: AbortSignal): Promise<void> {
    const { registry, prefix, clock, log } = this.#options
    await runAll(signal, [
      each =>
        followPrefix(
          {
            registry,
            prefix: subnetsPrefix(prefix),
            clock,
            log,
            onListing: () => {
              this.#ownWhenListed = this.#own
            },
            onSnapshot: snapshot => {
              this.#take(snapshot)
            },
            onChanges: changes => {
              this.#apply(changes)
            },
            onReachable: (reachable, why) => {
              this.#setReachable(reachable, why)
            },
          },
          each,
        ),
      each => this.#settle(each),
    ])
  }

  #take(snapshot: Snapshot): void {
    const { clock, log } = this.#options
    this.lists += 1
    const continuous = this.#isContinuous(snapshot)
    this.#suspicious = false
    this.#revision = snapshot.revision
    if (continuous) {
      this.table.replace(snapshot)
    } else {
      log.warn(
        { revision: String(snapshot.revision) },
        'etcd does not know our lease as it was: it may have been wiped or restored; remotes that it lacks are kept for a while',
      )
      const now = clock.now()
      const until = { keep: now + ORPHAN_GRACE_MS, doubt: now + DOUBT_MS }
      this.table.merge(snapshot, until)
      this.#wake.abort()
    }
    this.listed = true
    this.#tell()
  }

  /**
   * A registry that goes on has whatever it had when we heard from it last, but
   * for what was written or deleted since; and our record as we wrote it.
   */
  #isContinuous({ entries, revision }: Snapshot): boolean {
    const own = this.#own
    if (this.#suspicious || revision < this.#revision) return false
    const isOfThen = (entry: Entry): boolean => entry.modRevision <= this.#revision
    if (entries.some(entry => isOfThen(entry) && !this.table.agrees(entry))) return false
    const now = this.#options.clock.now()
    if (own === undefined || own.expiresAt <= now) return true
    if (entries.some(entry => isSameRecord(own, entry))) return true
    // Written since the list began, which is as of then: the watch brings it.
    const before = this.#ownWhenListed
    if (before === undefined || before.expiresAt <= now) return true
    return (
      !isSameRecord(own, before) && entries.some(entry => isSameRecord(before, entry))
    )
  }

  #apply(changes: readonly Change[]): void {
    for (const change of changes) this.#revision = revisionOf(change)
    this.table.apply(changes, this.#options.clock.now() + DELETED_GRACE_MS)
    if (changes.some(({ kind }) => kind === 'delete')) this.#wake.abort()
    this.#tell()
  }

  #setReachable(reachable: boolean, why: string): void {
    if (reachable === this.reachable) return
    const { log } = this.#options
    this.reachable = reachable
    if (reachable) log.info('etcd answers again')
    else
      log.warn(
        { reason: why },
        'cannot watch leases; forwarding goes on with the last known ones',
      )
    this.#tell()
  }

  async #settle(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    while (!signal.aborted) {
      this.#wake = new AbortController()
      const { settlesAt } = this.table
      const ms = Math.min(ORPHAN_GRACE_MS, settlesAt - clock.now())
      await clock.sleep(ms, AbortSignal.any([signal, this.#wake.signal]))
      // A machine that slept hears first what happened meanwhile.
      if (clock.now() > settlesAt + LATE_MS) await clock.sleep(DELETED_GRACE_MS, signal)
      if (this.table.settle(clock.now())) this.#tell()
    }
  }
}

function isSameRecord(
  one: OwnMark,
  other: Pick<Entry, 'key' | 'createRevision'> & { leaseId?: string | undefined },
): boolean {
  return (
    one.key === other.key &&
    one.createRevision === other.createRevision &&
    one.leaseId === other.leaseId
  )
}
