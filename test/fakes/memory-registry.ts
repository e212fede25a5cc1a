import type { Clock } from '../../lib/subnet/clock.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import type {
  Change,
  Entry,
  Guard,
  Outcome,
  Registry,
  Snapshot,
  Write,
} from '../../lib/subnet/registry.js'
import type { MemoryEtcd } from './memory-etcd.js'

export type Call = Exclude<keyof Registry, 'close'>

/** What becomes of a call: it is not sent, its answer is lost though it happened, or it is refused. */
export type Failure = 'not sent' | 'answer lost' | 'refused'

/** As in etcd-client.ts: how long an answer is waited for, and until a silent connection counts as dead. */
const CALL_TIMEOUT_MS = 5000
const SILENCE_MS = 15_000

export interface MemoryRegistryOptions {
  /** The host's own clock; the server's if not given. */
  readonly clock?: Clock
  /** How long each way to the server takes now, in ms. */
  readonly latencyMs?: () => number
}

/** One host's client of a MemoryEtcd, with the troubles that a real one has on its way. */
export class MemoryRegistry implements Registry {
  /** Each call by name, in order. */
  readonly calls: Call[] = []
  readonly #etcd: MemoryEtcd
  readonly #clock: Clock
  readonly #latencyMs: () => number
  readonly #failures: { readonly call: Call; readonly failure: Failure }[] = []
  #partitioned = false
  #closed = false

  constructor(
    etcd: MemoryEtcd,
    { clock = etcd.clock, latencyMs = () => 0 }: MemoryRegistryOptions = {},
  ) {
    this.#etcd = etcd
    this.#clock = clock
    this.#latencyMs = latencyMs
  }

  /** Lets the next call of that name fail; several wait their turn. */
  failNext(call: Call, failure: Failure): void {
    this.#failures.push({ call, failure })
  }

  /** Nothing gets through any more, and nobody says so. */
  partition(): void {
    this.#partitioned = true
    this.#etcd.wakeAll()
  }

  heal(): void {
    this.#partitioned = false
  }

  async list(prefix: string): Promise<Snapshot> {
    return await this.#call('list', () => this.#etcd.read(prefix))
  }

  async get(key: string): Promise<{ entry: Entry | undefined; revision: bigint }> {
    return await this.#call('get', () => ({
      entry: this.#etcd.get(key),
      revision: this.#etcd.revision,
    }))
  }

  async commit(guards: readonly Guard[], writes: readonly Write[]): Promise<Outcome> {
    return await this.#call('commit', () => this.#etcd.commit(guards, writes))
  }

  async grantLease(ttlSeconds: number): Promise<string> {
    return await this.#call('grantLease', () => this.#etcd.grant(ttlSeconds))
  }

  async keepLeaseAlive(id: string): Promise<number> {
    return await this.#call('keepLeaseAlive', () => this.#etcd.keepAlive(id))
  }

  async leaseTimeToLive(id: string): Promise<number> {
    return await this.#call('leaseTimeToLive', () => this.#etcd.timeToLive(id))
  }

  async revokeLease(id: string): Promise<void> {
    await this.#call('revokeLease', () => {
      this.#etcd.revoke(id)
    })
  }

  async *watch(
    prefix: string,
    from: bigint,
    signal: AbortSignal,
  ): AsyncIterable<readonly Change[]> {
    const epoch = await this.#call('watch', () => {
      const { revision } = this.#etcd
      if (revision + 1n < from) {
        throw new SubnetError(
          'ERR_REVISION_REGRESSED',
          `etcd is at revision ${revision} and was at ${from - 1n}: it was wiped or restored`,
        )
      }
      return this.#etcd.epoch
    })
    const stopped = (): boolean => signal.aborted
    if (stopped()) return
    yield []
    let next = from
    while (!stopped()) {
      if (this.#partitioned) {
        await this.#silence(signal)
        continue
      }
      this.#checkConnection(epoch)
      const news = this.#etcd.changes(prefix, next)
      next = news.next
      if (news.changes.length > 0) {
        yield news.changes
      } else {
        next = await this.#etcd.nextChange(prefix, signal)
        await this.#clock.sleep(this.#latencyMs(), signal)
      }
    }
  }

  /** Waits until the way is free; throws when it is blocked for too long. */
  async #silence(signal: AbortSignal): Promise<void> {
    const deadline = this.#clock.now() + SILENCE_MS
    while (this.#partitioned && !signal.aborted) {
      if (this.#clock.now() >= deadline) throw unavailable('the connection is silent')
      await this.#clock.sleep(1000, signal)
    }
  }

  #checkConnection(epoch: number): void {
    if (this.#closed || !this.#etcd.up || this.#etcd.epoch !== epoch) {
      throw unavailable('the connection is lost')
    }
  }

  close(): void {
    this.#closed = true
    this.#etcd.wakeAll()
  }

  async #call<T>(call: Call, act: () => T): Promise<T> {
    this.calls.push(call)
    const failure = this.#takeFailure(call)
    await this.#travel()
    if (failure === 'not sent') throw unavailable('no connection')
    if (failure === 'refused') {
      throw new SubnetError('ERR_REGISTRY_REFUSED', 'etcd refused: permission denied')
    }
    const answer = act()
    if (failure === 'answer lost') throw unavailable('the connection was cut')
    await this.#travel()
    return answer
  }

  #takeFailure(call: Call): Failure | undefined {
    const index = this.#failures.findIndex(planned => planned.call === call)
    return index < 0 ? undefined : this.#failures.splice(index, 1)[0]?.failure
  }

  async #travel(): Promise<void> {
    await this.#clock.sleep(this.#latencyMs())
    if (this.#closed) throw unavailable('the client is closed')
    if (this.#partitioned) {
      await this.#clock.sleep(CALL_TIMEOUT_MS)
      throw unavailable('no answer in 5 s')
    }
    if (!this.#etcd.up) throw unavailable('connection refused')
  }
}

function unavailable(why: string): SubnetError {
  return new SubnetError('ERR_REGISTRY_UNAVAILABLE', `etcd is not available: ${why}`)
}
