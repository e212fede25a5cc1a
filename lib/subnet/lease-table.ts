import type { Change, Entry, Snapshot } from './registry.js'
import { type SubnetRecord, parseSubnetRecord } from './subnet-record.js'

/** A record that could not be read, and why. It changes nothing else. */
export interface BadRecord {
  readonly key: string
  readonly why: string
}

/**
 * The subnet records of the registry as this host knows them. Fed by snapshots
 * and changes alike; whoever reads it cannot tell how they came.
 */
export class LeaseTable {
  readonly #records = new Map<string, SubnetRecord>()
  readonly #bad = new Map<string, string>()

  /** Takes the place of everything known before. */
  replace(snapshot: Snapshot): void {
    this.#records.clear()
    this.#bad.clear()
    for (const entry of snapshot.entries) this.#put(entry)
  }

  apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change.kind === 'put') {
        this.#put(change.entry)
      } else {
        this.#records.delete(change.key)
        this.#bad.delete(change.key)
      }
    }
  }

  #put(entry: Entry): void {
    try {
      this.#records.set(entry.key, parseSubnetRecord(entry))
      this.#bad.delete(entry.key)
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
      // An unreadable new value leaves the last readable one in force.
      this.#bad.set(entry.key, error.message)
    }
  }

  get(key: string): SubnetRecord | undefined {
    return this.#records.get(key)
  }

  records(): SubnetRecord[] {
    return [...this.#records.values()]
  }

  bad(): BadRecord[] {
    return Array.from(this.#bad, ([key, why]) => ({ key, why }))
  }
}
