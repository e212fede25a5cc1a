import type { Change, Entry, Snapshot } from './registry.js'
import { subnetsOverlap } from './subnet-key.js'
import { type SubnetRecord, parseSubnetRecord } from './subnet-record.js'

/** A record that could not be read, and why. It changes nothing else. */
export interface BadRecord {
  readonly key: string
  readonly why: string
}

/**
 * The subnet records of the registry as this host knows them. Fed by snapshots
 * and changes alike; whoever reads it cannot tell how they came.
 *
 * A registry that was wiped or restored has forgotten hosts that are there. Its
 * snapshot is merged: what it lacks is kept as *orphans*, until their time has
 * come, they turn up again, or somebody else takes their subnet.
 */
export class LeaseTable {
  readonly #records = new Map<string, SubnetRecord>()
  readonly #bad = new Map<string, string>()
  /** Clock time at which an orphan is given up, by key. */
  readonly #orphans = new Map<string, number>()

  /**
   * Takes the place of everything known before. As with changes, a record that
   * became unreadable stays as it was read last, unless its key was gone meanwhile.
   */
  replace(snapshot: Snapshot): void {
    const created = new Map(
      snapshot.entries.map(entry => [entry.key, entry.createRevision]),
    )
    for (const { key, createRevision } of this.records()) {
      if (created.get(key) !== createRevision) this.#records.delete(key)
    }
    this.#orphans.clear()
    this.#putAll(snapshot)
  }

  /** Adds and overrides. @param keepUntil clock time until which what is missing is kept. */
  merge(snapshot: Snapshot, keepUntil: number): void {
    const there = new Set(snapshot.entries.map(({ key }) => key))
    for (const key of this.#records.keys()) {
      if (!there.has(key) && !this.#orphans.has(key)) this.#orphans.set(key, keepUntil)
    }
    this.#putAll(snapshot)
  }

  #putAll(snapshot: Snapshot): void {
    this.#bad.clear()
    for (const entry of snapshot.entries) this.#put(entry)
  }

  apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change.kind === 'put') {
        this.#put(change.entry)
      } else {
        this.#delete(change.key)
      }
    }
  }

  /** Gives up the orphans whose time has come. Returns whether there were any. */
  dropOrphans(now: number): boolean {
    const due = [...this.#orphans].filter(([, until]) => until <= now)
    for (const [key] of due) this.#delete(key)
    return due.length > 0
  }

  /** When the next orphan is given up; undefined when there is none. */
  get nextOrphanAt(): number | undefined {
    return this.#orphans.size === 0 ? undefined : Math.min(...this.#orphans.values())
  }

  #put(entry: Entry): void {
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
  #evictOrphans(record: SubnetRecord): void {
    for (const key of this.#orphans.keys()) {
      const orphan = this.#records.get(key)
      if (orphan !== undefined && subnetsOverlap(orphan.subnet, record.subnet))
        this.#delete(key)
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

  records(): SubnetRecord[] {
    return [...this.#records.values()]
  }

  bad(): BadRecord[] {
    return Array.from(this.#bad, ([key, why]) => ({ key, why }))
  }
}
