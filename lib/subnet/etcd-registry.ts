import type {
  Etcd3,
  ICompare,
  IDuplexStream,
  IKeyValue,
  ILeaseKeepAliveRequest,
  ILeaseKeepAliveResponse,
  IRequestOp,
  IWatchRequest,
  IWatchResponse,
} from 'etcd3'
import { SubnetError, isSubnetError } from './errors.js'
import {
  CALL_TIMEOUT_MS,
  type EtcdOptions,
  castEtcdError,
  openEtcdClient,
} from './etcd-client.js'
import {
  type Change,
  type Entry,
  type Guard,
  type Outcome,
  type Registry,
  type Snapshot,
  type Write,
  revisionOf,
} from './registry.js'

/**
 * The registry in etcd, on its KV, lease and watch calls. etcd3's own Watcher
 * loses events when it is cut while catching up and never recovers from an
 * expired login, and its Lease reports a loss after 2.5 times the TTL; both are
 * done here and in follow-prefix.ts and keep-lease.ts instead.
 */
export class EtcdRegistry implements Registry {
  readonly #options: EtcdOptions
  readonly #clients = new Map<string, Etcd3>()
  /** The endpoint in use: the next one takes over when it fails. */
  #endpoint = 0

  constructor(options: EtcdOptions) {
    if (options.endpoints.length === 0) throw new TypeError('no etcd endpoint given')
    this.#options = options
  }

  /** The endpoint that calls go to at present. */
  get endpoint(): string {
    return this.#options.endpoints[this.#endpoint] ?? ''
  }

  async list(prefix: string): Promise<Snapshot> {
    const answer = await this.#ask(client =>
      client.kv.range({ key: Buffer.from(prefix), range_end: endOfPrefix(prefix) }),
    )
    return { revision: BigInt(answer.header.revision), entries: answer.kvs.map(toEntry) }
  }

  async get(key: string): Promise<{ entry: Entry | undefined; revision: bigint }> {
    const answer = await this.#ask(client => client.kv.range({ key: Buffer.from(key) }))
    const [kv] = answer.kvs
    return { entry: kv && toEntry(kv), revision: BigInt(answer.header.revision) }
  }

  async commit(guards: readonly Guard[], writes: readonly Write[]): Promise<Outcome> {
    const answer = await this.#askOnce(client =>
      client.kv.txn({ compare: guards.map(toCompare), success: writes.map(toRequest) }),
    )
    return { succeeded: answer.succeeded, revision: BigInt(answer.header.revision) }
  }

  async grantLease(ttlSeconds: number): Promise<string> {
    const answer = await this.#ask(client =>
      client.leaseClient.leaseGrant({ TTL: ttlSeconds }),
    )
    return answer.ID
  }

  async keepLeaseAlive(id: string): Promise<number> {
    return await this.#ask(async client => {
      const stream = await client.leaseClient.leaseKeepAlive()
      return await keepAliveOnce(stream, id)
    })
  }

  async leaseTimeToLive(id: string): Promise<number> {
    const answer = await this.#ask(client =>
      client.leaseClient.leaseTimeToLive({ ID: id }),
    )
    return Math.max(0, Number(answer.TTL))
  }

  async revokeLease(id: string): Promise<void> {
    if ((await this.leaseTimeToLive(id)) > 0) {
      await this.#ask(client => client.leaseClient.leaseRevoke({ ID: id }))
    }
  }

  async *watch(
    prefix: string,
    from: bigint,
    signal: AbortSignal,
  ): AsyncIterable<readonly Change[]> {
    // A read first: it finds an endpoint that works and renews an expired login.
    await this.get(prefix)
    const endpoint = this.endpoint
    const stream = await this.#client(endpoint).watchClient.watch()
    const cancel = (): void => {
      stream.cancel()
    }
    const creation = setTimeout(cancel, CALL_TIMEOUT_MS)
    signal.addEventListener('abort', cancel)
    try {
      signal.throwIfAborted()
      stream.write({
        create_request: {
          key: Buffer.from(prefix),
          range_end: endOfPrefix(prefix),
          start_revision: String(startRevision(from)),
        },
      })
      for await (const response of asIterable(stream)) {
        clearTimeout(creation)
        const changes = readWatchResponse(response, from)
        if (response.created || changes.length > 0) yield changes
      }
      throw new Error('the watch ended')
    } catch (error) {
      if (signal.aborted) return
      this.#moveOn(endpoint)
      throw castEtcdError(error, endpoint)
    } finally {
      clearTimeout(creation)
      signal.removeEventListener('abort', cancel)
      stream.cancel()
    }
  }

  close(): void {
    for (const client of this.#clients.values()) client.close()
  }

  #client(endpoint: string): Etcd3 {
    let client = this.#clients.get(endpoint)
    if (client === undefined) {
      client = openEtcdClient(endpoint, this.#options)
      this.#clients.set(endpoint, client)
    }
    return client
  }

  /** Makes a call that may be repeated: on every endpoint in turn until one answers. */
  async #ask<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#askOnce(call)
      } catch (error) {
        const last = attempt >= this.#options.endpoints.length
        if (last || !isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')) throw error
      }
    }
  }

  /** Makes a call that must not be repeated. The next call goes elsewhere if this one fails. */
  async #askOnce<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    const endpoint = this.endpoint
    try {
      return await call(this.#client(endpoint))
    } catch (error) {
      const cast = castEtcdError(error, endpoint)
      if (cast.code === 'ERR_REGISTRY_UNAVAILABLE') this.#moveOn(endpoint)
      throw cast
    }
  }

  /** Leaves an endpoint that failed, unless another call has left it already. */
  #moveOn(endpoint: string): void {
    if (endpoint !== this.endpoint) return
    this.#endpoint = (this.#endpoint + 1) % this.#options.endpoints.length
  }
}

/** The first key behind every key that starts with `prefix`. */
function endOfPrefix(prefix: string): Buffer {
  const end = Buffer.from(prefix)
  const last = end.length - 1
  end.writeUInt8(end.readUInt8(last) + 1, last)
  return end
}

/** etcd writes "no lease" and "no revision" as 0. */
function toEntry(kv: IKeyValue): Entry {
  return {
    key: kv.key.toString(),
    value: kv.value.toString(),
    createRevision: BigInt(kv.create_revision),
    modRevision: BigInt(kv.mod_revision),
    ...(kv.lease !== '0' && { leaseId: kv.lease }),
  }
}

function toCompare({ key, modRevision }: Guard): ICompare {
  return {
    key: Buffer.from(key),
    target: 'Mod',
    result: 'Equal',
    mod_revision: String(modRevision),
  }
}

function toRequest(write: Write): IRequestOp {
  const key = Buffer.from(write.key)
  if (write.kind === 'delete') return { request_delete_range: { key } }
  return {
    request_put: { key, value: Buffer.from(write.value), lease: write.leaseId ?? '0' },
  }
}

/**
 * One before `from`, a change that the caller has seen. etcd takes a watch from
 * exactly the revision of the compaction, although that cut may have removed a
 * deletion made there (etcd-io/etcd#18089); it refuses one from before it.
 */
function startRevision(from: bigint): bigint {
  return from > 1n ? from - 1n : from
}

function readWatchResponse(response: IWatchResponse, from: bigint): Change[] {
  if (response.canceled) {
    if (response.compact_revision !== '0') {
      throw new SubnetError(
        'ERR_WATCH_COMPACTED',
        `revision ${from} is compacted, history starts at ${response.compact_revision}`,
      )
    }
    throw new Error(response.cancel_reason || 'etcd ended the watch')
  }
  const revision = BigInt(response.header.revision)
  if (response.created && revision + 1n < from) {
    throw new SubnetError(
      'ERR_REVISION_REGRESSED',
      `etcd is at revision ${revision} and was at ${from - 1n}: it was wiped or restored`,
    )
  }
  return response.events.map(toChange).filter(change => revisionOf(change) >= from)
}

function toChange({ type, kv }: IWatchResponse['events'][number]): Change {
  return type === 'Put'
    ? { kind: 'put', entry: toEntry(kv) }
    : { kind: 'delete', key: kv.key.toString(), modRevision: BigInt(kv.mod_revision) }
}

/** etcd3's stream type leaves out what every duplex stream of gRPC is. */
function asIterable(
  stream: IDuplexStream<IWatchRequest, IWatchResponse>,
): AsyncIterable<IWatchResponse> {
  return stream as unknown as AsyncIterable<IWatchResponse>
}

/** Sends one keep-alive and returns the seconds granted, 0 when the lease is gone. */
async function keepAliveOnce(
  stream: IDuplexStream<ILeaseKeepAliveRequest, ILeaseKeepAliveResponse>,
  id: string,
): Promise<number> {
  const timer = setTimeout(() => {
    stream.cancel()
  }, CALL_TIMEOUT_MS)
  try {
    return await new Promise((resolve, reject) => {
      stream.on('data', answer => {
        resolve(Math.max(0, Number(answer.TTL)))
      })
      stream.on('error', reject)
      stream.on('end', () => {
        reject(new Error('etcd ended the keep-alive without an answer'))
      })
      stream.write({ ID: id })
    })
  } finally {
    clearTimeout(timer)
    stream.end()
  }
}
