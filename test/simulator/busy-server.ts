import type { Clock } from '../../lib/subnet/clock.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import { type Page, type PageRequest, PagedList } from '../../lib/subnet/paged-list.js'
import type {
  Change,
  Entry,
  Guard,
  Outcome,
  Registry,
  Snapshot,
  Write,
} from '../../lib/subnet/registry.js'
import type { MemoryEtcd } from '../fakes/memory-etcd.js'
import { MemoryRegistry } from '../fakes/memory-registry.js'
import { insertDescending } from '../helpers/insert-descending.js'

/** As in etcd-client.ts. */
const CALL_TIMEOUT_MS = 5000

/** All that runs without waiting for time has run by then. */
const TURN_MS = 0.001

/** What an entry has around its key and value, and an answer around its entries, in bytes. */
const ENTRY_BYTES = 40
const ANSWER_BYTES = 100

interface Transfer {
  /** What each transfer has got when this one is complete, in bytes. */
  readonly end: number
  readonly done: () => void
}

export interface Speed {
  readonly bytesPerSecond: number
  /** What a request takes of the server beside its bytes. */
  readonly requestMs: number
  readonly roundTripMs: number
}

/**
 * An etcd server that answers as fast as it can and no faster: everything that is
 * asked for at one time shares its link and its processor evenly.
 */
export class BusyServer {
  readonly etcd: MemoryEtcd
  /** In each second that anything was asked for in, by its number. */
  readonly requests = new Map<number, number>()
  sentBytes = 0
  timeouts = 0
  readonly #clock: Clock
  readonly #bytesPerMs: number
  readonly #requestBytes: number
  readonly #roundTripMs: number
  /** Who is complete first is last. */
  readonly #transfers: Transfer[] = []
  /** What each transfer has got since there is a server, and when that was so. */
  #got = 0
  #at: number
  #changed = new AbortController()
  #isRunning = false
  readonly #snapshots = new Map<string, { read: Snapshot; bytes: number }>()

  constructor(etcd: MemoryEtcd, { bytesPerSecond, requestMs, roundTripMs }: Speed) {
    this.etcd = etcd
    this.#clock = etcd.clock
    this.#at = this.#clock.now()
    this.#bytesPerMs = bytesPerSecond / 1000
    this.#requestBytes = requestMs * this.#bytesPerMs
    this.#roundTripMs = roundTripMs
  }

  /** Resolves when the answer of so many bytes has arrived. Throws ERR_REGISTRY_UNAVAILABLE when that takes too long. */
  async answer(bytes: number): Promise<void> {
    const second = Math.floor(this.#clock.now() / 1000)
    this.requests.set(second, (this.requests.get(second) ?? 0) + 1)
    const sent = bytes + ANSWER_BYTES
    await this.#clock.sleep(this.#roundTripMs)
    const deadline = new AbortController()
    const timer = this.#clock.sleep(CALL_TIMEOUT_MS, deadline.signal).then(() => {
      if (deadline.signal.aborted) return
      this.timeouts += 1
      throw new SubnetError(
        'ERR_REGISTRY_UNAVAILABLE',
        'etcd is not available: no answer',
      )
    })
    const late = new AbortController()
    try {
      await Promise.race([this.carry(sent, late.signal), timer])
    } finally {
      deadline.abort()
      late.abort()
    }
  }

  /** Resolves when so many bytes have arrived; what is left when `signal` aborts is not sent. */
  async carry(bytes: number, signal?: AbortSignal): Promise<void> {
    this.#progress()
    this.sentBytes += bytes
    await new Promise<void>(resolve => {
      const transfer = { end: this.#got + this.#requestBytes + bytes, done: resolve }
      insertDescending(this.#transfers, transfer, ({ end }) => end)
      this.#changed.abort()
      if (!this.#isRunning) void this.#run()
      signal?.addEventListener('abort', () => {
        const place = this.#transfers.indexOf(transfer)
        if (place < 0) return
        this.#progress()
        this.#transfers.splice(place, 1)
        this.sentBytes -= Math.min(bytes, transfer.end - this.#got)
        this.#changed.abort()
        resolve()
      })
    })
  }

  #progress(): void {
    const now = this.#clock.now()
    const { length } = this.#transfers
    if (length > 0) this.#got += ((now - this.#at) * this.#bytesPerMs) / length
    this.#at = now
  }

  async #run(): Promise<void> {
    this.#isRunning = true
    for (;;) {
      const next = this.#transfers.at(-1)
      if (next === undefined) break
      const left = ((next.end - this.#got) * this.#transfers.length) / this.#bytesPerMs
      if (left > 1e-6) {
        this.#changed = new AbortController()
        await this.#clock.sleep(left, this.#changed.signal)
        this.#progress()
        continue
      }
      this.#transfers.pop()
      next.done()
    }
    this.#isRunning = false
  }

  /** A list and its size, read once for all as long as nothing changes. */
  read(prefix: string): { read: Snapshot; bytes: number } {
    const { revision } = this.etcd
    const known = this.#snapshots.get(prefix)
    if (known?.read.revision === revision) return known
    const read = this.etcd.read(prefix)
    const found = { read, bytes: sizeOf(read.entries) }
    this.#snapshots.set(prefix, found)
    return found
  }
}

function sizeOf(entries: readonly Entry[]): number {
  return entries.reduce(
    (sum, { key, value }) => sum + key.length + value.length + ENTRY_BYTES,
    0,
  )
}

/** Everything as of the first page, and how far it has been read. */
interface Cursor {
  readonly read: Snapshot
  readonly at: number
}

/** One host's client of a busy server. */
export class BusyRegistry implements Registry {
  readonly #server: BusyServer
  readonly #inner: MemoryRegistry
  readonly #isPaged: boolean
  readonly #lists = new Map<string, PagedList<Cursor>>()

  /** @param isPaged lists come in pages, else in one answer. */
  constructor(server: BusyServer, isPaged: boolean) {
    this.#server = server
    this.#inner = new MemoryRegistry(server.etcd)
    this.#isPaged = isPaged
  }

  async list(prefix: string): Promise<Snapshot> {
    if (this.#isPaged) return await this.#listOf(prefix).read()
    const { read, bytes } = this.#server.read(prefix)
    await this.#server.answer(bytes)
    return read
  }

  #listOf(prefix: string): PagedList<Cursor> {
    let list = this.#lists.get(prefix)
    if (list === undefined) {
      const { clock } = this.#server.etcd
      const readPage = async (request: PageRequest<Cursor>): Promise<Page<Cursor>> => {
        const { limit } = request
        const { read, at } = request.cursor ?? {
          read: this.#server.read(prefix).read,
          at: 0,
        }
        const { revision, entries } = read
        const page = entries.slice(at, at + limit)
        await this.#server.answer(sizeOf(page))
        const next = at + limit < entries.length ? { read, at: at + limit } : undefined
        return { revision, entries: page, next }
      }
      list = new PagedList(readPage, clock.now.bind(clock), () => clock.sleep(TURN_MS))
      this.#lists.set(prefix, list)
    }
    return list
  }

  async get(key: string): Promise<{ entry: Entry | undefined; revision: bigint }> {
    await this.#server.answer(0)
    return await this.#inner.get(key)
  }

  async commit(guards: readonly Guard[], writes: readonly Write[]): Promise<Outcome> {
    await this.#server.answer(0)
    return await this.#inner.commit(guards, writes)
  }

  async grantLease(ttlSeconds: number): Promise<string> {
    await this.#server.answer(0)
    return await this.#inner.grantLease(ttlSeconds)
  }

  async keepLeaseAlive(id: string): Promise<number> {
    await this.#server.answer(0)
    return await this.#inner.keepLeaseAlive(id)
  }

  async leaseTimeToLive(id: string): Promise<number> {
    await this.#server.answer(0)
    return await this.#inner.leaseTimeToLive(id)
  }

  async revokeLease(id: string): Promise<void> {
    await this.#server.answer(0)
    await this.#inner.revokeLease(id)
  }

  async *watch(
    prefix: string,
    from: bigint,
    signal: AbortSignal,
  ): AsyncIterable<readonly Change[]> {
    await this.#server.answer(0)
    for await (const changes of this.#inner.watch(prefix, from, signal)) {
      const entries = changes.flatMap(each => (each.kind === 'put' ? [each.entry] : []))
      if (changes.length > 0) await this.#server.carry(sizeOf(entries) + ANSWER_BYTES)
      yield changes
    }
  }

  close(): void {
    this.#inner.close()
  }
}
