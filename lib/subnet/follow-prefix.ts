import type { Logger } from 'pino'
import { Backoff, type Clock } from './clock.js'
import { SubnetError } from './errors.js'
import { unlessAborted } from './loops.js'
import type { Change, Registry, Snapshot } from './registry.js'

/** Between two attempts to reach the registry, in ms. */
const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 5000

export interface FollowPrefix {
  readonly registry: Registry
  readonly prefix: string
  readonly clock: Clock
  readonly log: Logger
  /** Called before everything is listed, which takes a while. */
  readonly onListing?: () => void
  /** Everything there is: at first, and again after every cut. */
  readonly onSnapshot: (snapshot: Snapshot) => Promise<void> | void
  readonly onChanges: (changes: readonly Change[]) => void
  /** Called with every sign that the registry answers or does not, and the reason if it does not. */
  readonly onReachable?: (reachable: boolean, why: string) => void
}

/**
 * Follows what lies under a prefix until `signal` aborts: lists at a revision,
 * watches from the next, and after any cut begins again with a list. Going on
 * behind the last change seen would be cheaper, but an etcd that was restored
 * from a backup and has caught up in revisions since cannot be told from one
 * that went on.
 */
export async function followPrefix(
  options: FollowPrefix,
  signal: AbortSignal,
): Promise<void> {
  const { registry, prefix, clock, log } = options
  const { onListing, onSnapshot, onChanges, onReachable } = options
  const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  // Asked anew each time.
  const isOver = (): boolean => signal.aborted
  while (!isOver()) {
    try {
      onListing?.()
      const snapshot = await unlessAborted(registry.list(prefix), signal)
      await onSnapshot(snapshot)
      for await (const changes of registry.watch(
        prefix,
        snapshot.revision + 1n,
        signal,
      )) {
        if (changes.length > 0) onChanges(changes)
        backoff.reset()
        onReachable?.(true, '')
      }
    } catch (error) {
      if (isOver()) return
      if (!(error instanceof SubnetError)) throw error
      log.debug({ prefix, reason: error.message }, 'listing again')
      if (isAway(error)) onReachable?.(false, error.message)
      await backoff.wait(signal)
    }
  }
}

/** Not so when history was compacted or goes back: that is an answer. */
function isAway({ code }: SubnetError): boolean {
  return code === 'ERR_REGISTRY_UNAVAILABLE' || code === 'ERR_REGISTRY_REFUSED'
}
