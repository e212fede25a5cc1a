import type { Change, Entry, Snapshot } from './registry.js'
import { subnetsOverlap } from './subnet-key.js'
import {
  type SubnetRecord,
  formatHolder,
  parseSubnetRecord,
  readSubnetRecord,
  sameAddresses,
} from './subnet-record.js'

/** A record that could not be read, and why. It changes nothing else. */
export interface BadRecord {
  readonly key: string
  readonly why: string
}

/** A record that is gone from the registry and believed in for a while. */
export interface Orphan {
  readonly key: string
  /** Clock time. */
  readonly keptUntil: number
}

/** A record that a restored registry has, and that is not believed yet. */
export interface Doubt {
  readonly entry: Entry
  /** Clock time. */
  readonly until: number
}

/**
 * The subnet records of the registry as this host knows them. Fed by snapshots
 * and changes alike; whoever reads it cannot tell how they came.
 *
 * What is gone from the registry may be there all the same: a host puts a record
 * back that was deleted by mistake, and a registry that was wiped or restored has
 * forgotten hosts. Such records are kept as *orphans*, until their time has come,
 * they turn up again, or somebody else takes their subnet. And what a restored
 * registry says of a subnet may be long out of date: it is *doubted* for a while.
 */
export class LeaseTable {
  readonly #records = new Map<string, SubnetRecord>()
  readonly #bad = new Map<string, string>()
  /** Clock time at which an orphan is given up, by key. */
  readonly #orphans = new Map<string, number>()
  /** What a restored registry says against what was known later, and until when that is doubted. */
  readonly #doubted = new Map<string, Doubt>()

  /**
   * Takes the place of what was known before; orphans and doubts keep their time.
   * As with changes, a record that became unreadable stays as it was read last,
   * unless its key was gone meanwhile.
   */
  replace(snapshot: Snapshot): void {
    const entries = new Map(snapshot.entries.map(entry => [entry.key, entry]))
    for (const [key, { entry }] of this.#doubted) {
      if (entries.get(key)?.modRevision !== entry.modRevision) this.#doubted.delete(key)
    }
    for (const { key, createRevision } of this.records()) {
      const isGone = entries.get(key)?.createRevision !== createRevision
      if (isGone && !this.#orphans.has(key) && !this.#doubted.has(key))
        this.#records.delete(key)
    }
    this.#bad.clear()
    for (const entry of snapshot.entries) {
      if (!this.#doubted.has(entry.key)) this.#put(entry)
    }
  }

  /**
   * Adds and overrides.
   *
   * @param until clock times: `keep` what is missing, `doubt` what contradicts
   *   what was known and has not been doubted before.
   */
  merge(
    snapshot: Snapshot,
    until: { readonly keep: number; readonly doubt: number },
  ): void {
    const there = new Set(snapshot.entries.map(({ key }) => key))
    for (const key of this.#records.keys()) {
      if (!there.has(key)) this.#abandon(key, until.keep)
    }
    const before = new Map(this.#doubted)
    this.#bad.clear()
    this.#doubted.clear()
    for (const entry of snapshot.entries) {
      const doubt = before.get(entry.key)
      const isSame = doubt?.entry.value === entry.value
      if (this.#contradicts(entry))
        this.#doubted.set(entry.key, { entry, until: isSame ? doubt.until : until.doubt })
      else this.#put(entry)
    }
  }

  /** Whether an entry names another holder than the one known. Revisions of two histories cannot be compared. */
  #contradicts(entry: Entry): boolean {
    const known = this.#records.get(entry.key)
    const record = readSubnetRecord(entry)
    return (
      known !== undefined &&
      record !== undefined &&
      formatHolder(record.holder) !== formatHolder(known.holder)
    )
  }

  /** Whether the registry had this record as it is when it was heard from last; true of what cannot be read. */
  agrees(entry: Entry): boolean {
    const { key } = entry
    const known =
      this.#doubted.get(key)?.entry ??
      (this.#orphans.has(key) ? undefined : this.#records.get(key))
    const isKnown =
      known?.modRevision === entry.modRevision &&
      known.createRevision === entry.createRevision
    return isKnown || readSubnetRecord(entry) === undefined
  }

  /** @param keepUntil clock time until which what was deleted is kept. */
  apply(changes: readonly Change[], keepUntil: number): void {
    for (const change of changes) {
      this.#doubted.delete(change.kind === 'put' ? change.entry.key : change.key)
      if (change.kind === 'put') {
        this.#put(change.entry)
        this.#evictMoved(change.entry.key)
      } else if (this.#records.has(change.key)) {
        this.#abandon(change.key, keepUntil)
      } else {
        this.#delete(change.key)
      }
    }
  }

  /** Goes on from what another table knew beside its records. */
  resume(orphans: readonly Orphan[], doubts: readonly Doubt[]): void {
    for (const { key, keptUntil } of orphans)
      if (this.#records.has(key)) this.#abandon(key, keptUntil)
    for (const doubt of doubts)
      if (this.#records.has(doubt.entry.key)) this.#doubted.set(doubt.entry.key, doubt)
  }

  doubts(): Doubt[] {
    return [...this.#doubted.values()]
  }

  orphans(): Orphan[] {
    return Array.from(this.#orphans, ([key, keptUntil]) => ({ key, keptUntil }))
  }

  #abandon(key: string, keepUntil: number): void {
    this.#bad.delete(key)
    if (!this.#orphans.has(key)) this.#orphans.set(key, keepUntil)
  }

  /** Gives up the orphans whose time has come, and doubts. Returns whether there were any. */
  settle(now: number): boolean {
    const due = [...this.#orphans].filter(([, until]) => until <= now)
    for (const [key] of due) {
      this.#records.delete(key)
      this.#orphans.delete(key)
    }
    const believed = [...this.#doubted.values()].filter(({ until }) => until <= now)
    for (const { entry } of believed) {
      this.#doubted.delete(entry.key)
      this.#put(entry)
    }
    return due.length + believed.length > 0
  }

  /** When there is something to settle next; Infinity when there is nothing. */
  get settlesAt(): number {
    let first = Number.POSITIVE_INFINITY
    for (const until of this.#orphans.values()) first = Math.min(first, until)
    for (const { until } of this.#doubted.values()) first = Math.min(first, until)
    return first
  }

  #put(entry: Entry): void {
    const known = this.#records.get(entry.key)
    if (known !== undefined && isUnchanged(known, entry)) {
      this.#bad.delete(entry.key)
      this.#orphans.delete(entry.key)
      return
    }
    try {
      const record = parseSubnetRecord(entry)
      this.#records.set(entry.key, record)
      this.#bad.delete(entry.key)
      this.#orphans.delete(entry.key)
      this.#evictOrphans(record)
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
      // An unreadable new value leaves the last readable one in force.
      this.#bad.set(entry.key, error.message)
    }
  }

  /** Two halves of a dual-stack subnet may turn up under keys that differ from the orphan's. */
  #evictOrphans({ subnet }: SubnetRecord): void {
    for (const key of this.#orphans.keys()) {
      const orphan = this.#records.get(key)
      if (orphan !== undefined && subnetsOverlap(orphan.subnet, subnet)) this.#delete(key)
    }
  }

  /** A host that has just written another record is not where it was. */
  #evictMoved(key: string): void {
    const { kind, holder } = this.#records.get(key) ?? {}
    if (kind !== 'lease' || holder?.hostId === undefined) return
    for (const other of this.#orphans.keys()) {
      const orphan = this.#records.get(other)?.holder
      if (orphan?.hostId === holder.hostId && sameAddresses(orphan, holder))
        this.#delete(other)
    }
  }

  #delete(key: string): void {
    this.#records.delete(key)
    this.#bad.delete(key)
    this.#orphans.delete(key)
  }

  get(key: string): SubnetRecord | undefined {
    return this.#records.get(key)
  }

  /** True for a record that the registry has forgotten. */
  isOrphan(key: string): boolean {
    return this.#orphans.has(key)
  }

  /** True for a key that a restored registry has another record of than what is known. */
  isDoubted(key: string): boolean {
    return this.#doubted.has(key)
  }

  /** Records that a restored registry has and that are not believed yet. */
  doubted(): SubnetRecord[] {
    return Array.from(
      this.#doubted.values(),
      ({ entry }) => readSubnetRecord(entry) ?? [],
    ).flat()
  }

  /** How many records there are. */
  get count(): number {
    return this.#records.size
  }

  records(): SubnetRecord[] {
    return [...this.#records.values()]
  }

  bad(): BadRecord[] {
    return Array.from(this.#bad, ([key, why]) => ({ key, why }))
  }
}

/** Whether the entry is the one that the record was read from: then it is not read again. */
function isUnchanged(record: SubnetRecord, entry: Entry): boolean {
  return (
    record.kind === 'lease' &&
    record.leaseId === entry.leaseId &&
    record.modRevision === entry.modRevision &&
    record.createRevision === entry.createRevision
  )
}
