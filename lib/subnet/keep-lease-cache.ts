import type { Clock } from './clock.js'
import type { Tenure } from './host-lease.js'
import type { Loop } from './loops.js'

/** Changes that follow each other closely are written once: the longer the list, the fewer times. */
const LEAST_GATHER_MS = 500
const MOST_GATHER_MS = 5000
const GATHER_MS_PER_RECORD = 0.5

/** While nothing changes, the times in it are brought up to date this often. */
const REFRESH_MS = 60_000

export interface KeepLeaseCache {
  readonly tenure: Pick<Tenure, 'keeper' | 'view'>
  readonly clock: Clock
  /** Writes what is known now. */
  readonly write: () => Promise<void> | void
}

/**
 * Has the lease cache written after changes, now and then, and at the end. What
 * becomes of our own record is written at once: by it a successor tells whether
 * the registry forgot anything meanwhile.
 */
export function keepLeaseCache({ tenure, clock, write }: KeepLeaseCache): Loop {
  const { keeper, view } = tenure
  return async signal => {
    let written = keeper.held.createRevision
    let changed = new AbortController()
    let recreated = new AbortController()
    const forget = view.subscribe(() => {
      changed.abort()
      if (keeper.held.createRevision !== written) recreated.abort()
    })
    while (!signal.aborted) {
      changed = new AbortController()
      recreated = new AbortController()
      written = keeper.held.createRevision
      await write()
      const gatherMs = LEAST_GATHER_MS + GATHER_MS_PER_RECORD * view.table.count
      await clock.sleep(
        Math.min(MOST_GATHER_MS, gatherMs),
        AbortSignal.any([signal, recreated.signal]),
      )
      await clock.sleep(REFRESH_MS, AbortSignal.any([signal, changed.signal]))
    }
    forget()
    await write()
  }
}
