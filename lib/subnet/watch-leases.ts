import type { Logger } from 'pino'
import { Backoff, type Clock } from './clock.js'
import { SubnetError, isSubnetError } from './errors.js'
import type { LeaseTable } from './lease-table.js'
import { type Registry, revisionOf } from './registry.js'

/** Between two attempts to reach the registry, in ms. */
const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 5000

export interface WatchLeases {
  readonly registry: Registry
  /** Keys of the records, with the slash at the end. */
  readonly prefix: string
  readonly table: LeaseTable
  readonly clock: Clock
  readonly log: Logger
  /** Called after each change of the table, and not awaited by the watch. */
  onChange(): void
  /** Called when the registry stops or starts to answer. */
  onReachable(reachable: boolean): void
}

/**
 * Keeps the table equal to the registry: lists at a revision, watches from the
 * next, and after a cut goes on behind the last change seen. Only when that
 * history is gone does it list again; the table works out the difference.
 */
export async function watchLeases(
  options: WatchLeases,
  signal: AbortSignal,
): Promise<void> {
  const { registry, prefix, table, log } = options
  const retry = new Retry(options)
  let next: bigint | undefined
  while (!signal.aborted) {
    try {
      if (next === undefined) {
        const snapshot = await registry.list(prefix)
        table.replace(snapshot)
        next = snapshot.revision + 1n
        retry.succeeded()
        options.onChange()
      }
      for await (const changes of registry.watch(prefix, next, signal)) {
        table.apply(changes)
        next = changes.reduce((from, change) => max(from, revisionOf(change) + 1n), next)
        retry.succeeded()
        if (changes.length > 0) options.onChange()
      }
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      if (
        isSubnetError(error, 'ERR_WATCH_COMPACTED') ||
        isSubnetError(error, 'ERR_REVISION_REGRESSED')
      ) {
        log.info({ reason: error.message }, 'listing all leases again')
        next = undefined
      }
      await retry.failed(error, signal)
    }
  }
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}

/** Says once that the registry is away and once that it is back, and waits in between. */
class Retry {
  readonly #options: WatchLeases
  readonly #backoff: Backoff
  #failing = false

  constructor(options: WatchLeases) {
    this.#options = options
    this.#backoff = new Backoff(options.clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  }

  succeeded(): void {
    this.#backoff.reset()
    if (!this.#failing) return
    this.#failing = false
    this.#options.log.info('etcd answers again')
    this.#options.onReachable(true)
  }

  async failed(error: SubnetError, signal: AbortSignal): Promise<void> {
    const away =
      error.code === 'ERR_REGISTRY_UNAVAILABLE' || error.code === 'ERR_REGISTRY_REFUSED'
    if (away && !this.#failing) {
      this.#failing = true
      this.#options.log.warn(
        { reason: error.message },
        'cannot watch leases; forwarding goes on with the last known ones',
      )
      this.#options.onReachable(false)
    }
    await this.#backoff.wait(signal)
  }
}
