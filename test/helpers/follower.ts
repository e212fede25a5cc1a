import { SubnetError } from '../../lib/subnet/errors.js'
import { type Registry, revisionOf } from '../../lib/subnet/registry.js'

/** Watches a prefix, and when the watch fails watches again from behind the last change. */
export class Follower {
  /** Values that were put, in the order they came. */
  readonly values: string[] = []
  readonly failures: SubnetError[] = []
  /** How often a watch has stood. */
  standings = 0
  readonly #stop = new AbortController()
  readonly #done: Promise<void>

  private constructor(registry: Registry, prefix: string, from: bigint) {
    this.#done = this.#follow(registry, prefix, from)
  }

  /** Follows what is written after this call. */
  static async open(registry: Registry, prefix: string): Promise<Follower> {
    const { revision } = await registry.get(prefix)
    return new Follower(registry, prefix, revision + 1n)
  }

  async #follow(registry: Registry, prefix: string, from: bigint): Promise<void> {
    const { signal } = this.#stop
    let next = from
    while (!signal.aborted) {
      try {
        for await (const changes of registry.watch(prefix, next, signal)) {
          if (changes.length === 0) this.standings += 1
          for (const change of changes) {
            if (change.kind === 'put') this.values.push(change.entry.value)
            next = revisionOf(change) + 1n
          }
        }
      } catch (error) {
        if (!(error instanceof SubnetError)) throw error
        this.failures.push(error)
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#done
  }
}
