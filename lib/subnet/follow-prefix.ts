import type { Logger } from 'pino'
import { Backoff, type Clock } from './clock.js'
import { SubnetError } from './errors.js'
import type { Change, Registry, Snapshot } from './registry.js'

/** Between two attempts to reach the registry, in ms. */
const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 5000

export interface FollowPrefix {
  readonly registry: Registry
  readonly prefix: string
  readonly clock: Clock
  readonly log: Logger
  /** Everything there is: at first, and again after every cut. */
  readonly onSnapshot: (snapshot: Snapshot) => Promise<void> | void
  readonly onChanges: (changes: readonly Change[]) => void
  /** Called when the registry stops or starts to answer, with the reason if it stops. */
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
  const { registry, prefix, log, onSnapshot, onChanges } = options
  const retry = new Retry(options)
  while (!signal.aborted) {
    try {
      const snapshot = await registry.list(prefix)
      await onSnapshot(snapshot)
      for await (const changes of registry.watch(
        prefix,
        snapshot.revision + 1n,
        signal,
      )) {
        if (changes.length > 0) onChanges(changes)
        retry.succeeded()
      }
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      log.debug({ prefix, reason: error.message }, 'listing again')
      await retry.failed(error, signal)
    }
  }
}

/** Says once that the registry is away and once that it is back, and waits in between. */
class Retry {
  readonly #onReachable: FollowPrefix['onReachable']
  readonly #backoff: Backoff
  #failing = false

  constructor({ clock, onReachable }: FollowPrefix) {
    this.#onReachable = onReachable
    this.#backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  }

  succeeded(): void {
    this.#backoff.reset()
    if (!this.#failing) return
    this.#failing = false
    this.#onReachable?.(true, '')
  }

  async failed(error: SubnetError, signal: AbortSignal): Promise<void> {
    const away =
      error.code === 'ERR_REGISTRY_UNAVAILABLE' || error.code === 'ERR_REGISTRY_REFUSED'
    if (away && !this.#failing) {
      this.#failing = true
      this.#onReachable?.(false, error.message)
    }
    await this.#backoff.wait(signal)
  }
}
