import type {
  ICompare,
  IDuplexStream,
  IKeyValue,
  ILeaseKeepAliveRequest,
  ILeaseKeepAliveResponse,
  IRequestOp,
  IWatchRequest,
  IWatchResponse,
} from 'etcd3'
import { SubnetError } from './errors.js'
import { EtcdCluster, type EtcdOptions } from './etcd-cluster.js'
import {
  CALL_TIMEOUT_MS,
  LOGIN_EXPIRED,
  isLoginExpired,
  isLoginUnknown,
} from './etcd-errors.js'
import { type Page, type PageRequest, PagedList } from './paged-list.js'
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
  readonly #cluster: EtcdCluster
  readonly #lists = new Map<string, PagedList<Place>>()

  constructor(options: EtcdOptions) {
    this.#cluster = new EtcdCluster(options)
  }

  /** The endpoint that calls go to at present. */
  get endpoint(): string {
    return this.#cluster.endpoint
  }

  /** How many calls were made and failed, and what time they took together. */
  get calls(): {
    readonly made: number
    readonly failed: number
    readonly seconds: number
  } {
    return this.#cluster.calls
  }

  /** Reads certificates and password again, and connects anew with the next call. */
  renew(): void {
    this.#cluster.renew()
  }

  async list(prefix: string): Promise<Snapshot> {
    let list = this.#lists.get(prefix)
    if (list === undefined) {
      const readPage = this.#pagesOf(prefix)
      list = new PagedList(readPage, performance.now.bind(performance))
      this.#lists.set(prefix, list)
    }
    return await list.read()
  }

  #pagesOf(prefix: string): (request: PageRequest<Place>) => Promise<Page<Place>> {
    const start = Buffer.from(prefix)
    const range_end = endOfPrefix(prefix)
    return async ({ cursor, limit, revision }) => {
      const key = cursor?.key ?? start
      const range = { key, range_end, limit, revision: String(revision ?? 0) }
      const answer = await this.#cluster.ask(
        client => client.kv.range(range),
        cursor === undefined ? undefined : PAGE_PATIENCE_MS,
      )
      const { header, kvs, more } = answer
      const term = BigInt(header.raft_term)
      if (cursor !== undefined && term < cursor.term)
        throw new SubnetError('ERR_REVISION_REGRESSED', 'etcd was restored meanwhile')
      const last = kvs.at(-1)
      return {
        revision: BigInt(header.revision),
        entries: kvs.map(toEntry),
        next: more && last ? { key: behind(last.key), term } : undefined,
      }
    }
  }

  async get(key: string): Promise<{ entry: Entry | undefined; revision: bigint }> {
    const answer = await this.#cluster.ask(client =>
      client.kv.range({ key: Buffer.from(key) }),
    )
    const [kv] = answer.kvs
    return { entry: kv && toEntry(kv), revision: BigInt(answer.header.revision) }
  }

  async commit(guards: readonly Guard[], writes: readonly Write[]): Promise<Outcome> {
    const answer = await this.#cluster.askOnce(client =>
      client.kv.txn({ compare: guards.map(toCompare), success: writes.map(toRequest) }),
    )
    return { succeeded: answer.succeeded, revision: BigInt(answer.header.revision) }
  }

  async grantLease(ttlSeconds: number): Promise<string> {
    const answer = await this.#cluster.ask(client =>
      client.leaseClient.leaseGrant({ TTL: ttlSeconds }),
    )
    return answer.ID
  }

  async keepLeaseAlive(id: string): Promise<number> {
    return await this.#cluster.ask(async client => {
      const stream = await client.leaseClient.leaseKeepAlive()
      return await keepAliveOnce(stream, id)
    })
  }

  async leaseTimeToLive(id: string): Promise<number> {
    const answer = await this.#cluster.ask(client =>
      client.leaseClient.leaseTimeToLive({ ID: id }),
    )
    return Math.max(0, Number(answer.TTL))
  }

  async revokeLease(id: string): Promise<void> {
    if ((await this.leaseTimeToLive(id)) > 0) {
      await this.#cluster.ask(client => client.leaseClient.leaseRevoke({ ID: id }))
    }
  }

  async *watch(
    prefix: string,
    from: bigint,
    signal: AbortSignal,
  ): AsyncIterable<readonly Change[]> {
    // A read first: it finds an endpoint that works and renews an expired login.
    await this.get(prefix)
    const member = this.#cluster.current()
    const stream = await member.call(client => client.watchClient.watch())
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
      const cast = member.cast(error)
      // A token that etcd took from us may show as a missing permission (etcd-io/etcd#8914).
      if (isLoginExpired(error) || cast.code === 'ERR_REGISTRY_REFUSED') {
        member.forgetLogin()
      } else if (cast.code === 'ERR_REGISTRY_UNAVAILABLE') {
        this.#cluster.leave(member)
      }
      throw cast
    } finally {
      clearTimeout(creation)
      signal.removeEventListener('abort', cancel)
      stream.cancel()
    }
  }

  close(): void {
    this.#cluster.close()
  }
}

/** A page may take a while; asked of other members as well, it would only take longer. */
const PAGE_PATIENCE_MS = 2500

/** Where a page begins, and the raft term of the member that the one before came from. */
interface Place {
  readonly key: Buffer
  readonly term: bigint
}

/** The next key that can be; keys that are no text have one as well. */
function behind(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.of(0)])
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
        'ERR_REVISION_COMPACTED',
        `revision ${from} is compacted, history starts at ${response.compact_revision}`,
      )
    }
    const reason = response.cancel_reason || 'etcd ended the watch'
    throw new Error(isLoginUnknown(reason) ? LOGIN_EXPIRED : reason)
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
