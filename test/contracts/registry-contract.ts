import type { Test } from 'tap'
import {
  revisionOf,
  type Change,
  type Registry,
  type Snapshot,
} from '../../lib/subnet/registry.js'

/** A server with a way to make trouble, real or in memory. */
export interface RegistryServer {
  /** A client of its own. */
  connect(): Registry
  /** Lets time pass. */
  sleep(ms: number): Promise<void>
  /** Waits for a call; time passes meanwhile. */
  settle<T>(promise: Promise<T>): Promise<T>
  compact(revision: bigint): Promise<void>
  /** Breaks every connection; new ones succeed. */
  cut(): void
  stop(): Promise<void>
  start(): Promise<void>
  /** Stops, and starts without any data. */
  wipe(): Promise<void>
  close(): Promise<void>
}

/** More entries than etcd is asked for at a time. */
const LONG = 2000

/** What every Registry promises; see lib/subnet/registry.ts. */
export async function registryContract(
  t: Test,
  open: () => Promise<RegistryServer>,
): Promise<void> {
  const server = await open()
  t.teardown(() => server.close())
  const settle = <T>(promise: Promise<T>): Promise<T> => server.settle(promise)
  const registry = server.connect()
  let tests = 0

  /** A test with keys of its own, and a way to follow them. */
  const test = (
    name: string,
    act: (t: Test, parts: { prefix: string; follow: typeof follow }) => Promise<void>,
  ): void => {
    tests += 1
    const prefix = `/contract-${tests}/`
    t.test(name, async t => {
      await act(t, { prefix, follow })
    })
  }

  const put = async (key: string, value: string, leaseId?: string): Promise<bigint> => {
    const write = { kind: 'put', key, value, ...(leaseId && { leaseId }) } as const
    return (await settle(registry.commit([], [write]))).revision
  }
  const remove = async (key: string): Promise<bigint> =>
    (await settle(registry.commit([], [{ kind: 'delete', key }]))).revision
  const get = async (key: string) => (await settle(registry.get(key))).entry
  const revisionNow = async (): Promise<bigint> =>
    (await settle(registry.list('/'))).revision

  /** Waits for a condition, for twenty seconds of the server's time. */
  const eventually = async (
    condition: () => boolean | Promise<boolean>,
  ): Promise<void> => {
    for (let tries = 0; tries < 800; tries++) {
      if (await condition()) return
      await server.sleep(25)
    }
    throw new Error('waited for twenty seconds in vain')
  }

  const follow = (
    t: Test,
    prefix: string,
    from: bigint,
    client: Registry = registry,
  ): Follower => {
    const follower = new Follower(client, prefix, from)
    t.teardown(() => settle(follower.stop()))
    return follower
  }

  test('list gives the entries under a prefix, as of one revision', async (t, {
    prefix,
  }) => {
    await put(`${prefix}b`, '2')
    const revision = await put(`${prefix}a`, '1')
    await put(`${prefix.slice(0, -1)}-other/c`, '3')

    const snapshot = await settle(registry.list(prefix))

    t.strictSame(
      snapshot.entries.map(({ key, value }) => [key, value]),
      [
        [`${prefix}a`, '1'],
        [`${prefix}b`, '2'],
      ],
    )
    t.equal(snapshot.revision, revision + 1n)
    t.equal(snapshot.entries[0]?.modRevision, revision)
  })

  test('a long list is of one revision, whatever is written and compacted meanwhile', async (t, {
    prefix,
  }) => {
    const keyOf = (index: number): string => `${prefix}${String(index).padStart(4, '0')}`
    for (let first = 0; first < LONG; first += 100)
      await settle(
        registry.commit(
          [],
          Array.from({ length: 100 }, (_, index) => ({
            kind: 'put',
            key: keyOf(first + index),
            value: 'x'.repeat(100),
          })),
        ),
      )

    // One key at a time moves behind all others, and back.
    const writer = server.connect()
    const state = { isOver: false, moves: 0 }
    const moveKeys = async (): Promise<void> => {
      for (; !state.isOver; state.moves++) {
        const home = keyOf(((state.moves >> 1) * 7) % LONG)
        const away = `${prefix}~`
        const [from, to] = state.moves % 2 === 0 ? [home, away] : [away, home]
        const { revision } = await writer.commit(
          [],
          [
            { kind: 'delete', key: from },
            { kind: 'put', key: to, value: '' },
          ],
        )
        if (state.moves % 50 === 0) await server.compact(revision)
      }
    }
    const snapshots: Snapshot[] = []
    const read = async (): Promise<void> => {
      try {
        while (snapshots.length < 20) snapshots.push(await registry.list(prefix))
      } finally {
        state.isOver = true
      }
    }
    await settle(Promise.all([read(), moveKeys()]))
    for (const { revision, entries } of snapshots) {
      const keys = entries.map(({ key }) => key)
      t.equal(keys.length, LONG, 'none is missing, and none is there twice')
      t.strictSame(keys.toSorted(), keys, 'in order')
      t.ok(entries.every(({ modRevision }) => modRevision <= revision))
    }
    t.comment(`${state.moves} writes meanwhile`)
  })

  test('of many that create one key, one succeeds', async (t, { prefix }) => {
    const clients = [registry, server.connect(), server.connect()]
    t.teardown(() => {
      for (const client of clients.slice(1)) client.close()
    })

    const outcomes = await settle(
      Promise.all(
        Array.from({ length: 12 }, (_, index) =>
          clients[index % clients.length]!.commit(
            [{ key: `${prefix}a`, modRevision: 0n }],
            [{ kind: 'put', key: `${prefix}a`, value: String(index) }],
          ),
        ),
      ),
    )

    const winners = outcomes.flatMap(({ succeeded }, index) =>
      succeeded ? [String(index)] : [],
    )
    t.strictSame(winners, [(await get(`${prefix}a`))?.value])
  })

  test('a guard on an old revision stops every write', async (t, { prefix }) => {
    const [a, b] = [`${prefix}a`, `${prefix}b`]
    const first = await put(a, '1')
    const second = await put(a, '2')
    const writes = [
      { kind: 'put', key: a, value: '3' },
      { kind: 'put', key: b, value: '3' },
    ] as const

    const stale = await settle(registry.commit([{ key: a, modRevision: first }], writes))
    const kept = await get(a)
    const fresh = await settle(registry.commit([{ key: a, modRevision: second }], writes))

    t.equal(stale.succeeded, false)
    t.match(kept, { value: '2', createRevision: first, modRevision: second })
    t.equal(fresh.succeeded, true)
    t.match(await get(a), {
      value: '3',
      createRevision: first,
      modRevision: fresh.revision,
    })
    t.equal((await get(b))?.createRevision, fresh.revision)
  })

  test('deleting a key that is not there changes nothing', async (t, { prefix }) => {
    const before = await revisionNow()

    await remove(`${prefix}a`)

    t.equal(await revisionNow(), before)
  })

  test('a lease that ends takes its keys with it', async (t, { prefix, follow }) => {
    const id = await settle(registry.grantLease(5))
    const from = await put(`${prefix}a`, '1', id)
    await put(`${prefix}b`, '2')
    const follower = follow(t, prefix, from)

    await eventually(async () => (await get(`${prefix}a`)) === undefined)
    await eventually(() => follower.seen.length === 3)

    t.strictSame(follower.texts(), [`+${prefix}a=1`, `+${prefix}b=2`, `-${prefix}a`])
    t.equal(await settle(registry.keepLeaseAlive(id)), 0)
    t.equal(await settle(registry.leaseTimeToLive(id)), 0)
  })

  test('a keep-alive gives a lease its whole time again, and nobody is told', async (t, {
    prefix,
  }) => {
    const id = await settle(registry.grantLease(60))
    await put(`${prefix}a`, '1', id)
    const before = await revisionNow()
    const timeLeft = (): Promise<number> => settle(registry.leaseTimeToLive(id))
    await eventually(async () => (await timeLeft()) <= 54)

    t.equal(await settle(registry.keepLeaseAlive(id)), 60)

    t.ok((await timeLeft()) > 54)
    t.equal((await get(`${prefix}a`))?.leaseId, id)
    t.equal(await revisionNow(), before)
  })

  test('revoking a lease deletes its keys, and may be done twice', async (t, {
    prefix,
  }) => {
    const id = await settle(registry.grantLease(60))
    await put(`${prefix}a`, '1', id)

    await settle(registry.revokeLease(id))
    await settle(registry.revokeLease(id))

    t.equal(await get(`${prefix}a`), undefined)
    t.equal(await settle(registry.keepLeaseAlive(id)), 0)
  })

  test('a key belongs to the lease that it was put on last', async (t, { prefix }) => {
    const old = await settle(registry.grantLease(60))
    await put(`${prefix}moved`, '1', old)
    await put(`${prefix}freed`, '1', old)
    const current = await settle(registry.grantLease(60))
    await put(`${prefix}moved`, '2', current)
    await put(`${prefix}freed`, '2')

    await settle(registry.revokeLease(old))

    t.equal((await get(`${prefix}moved`))?.leaseId, current)
    t.match(await get(`${prefix}freed`), { value: '2', leaseId: undefined })
  })

  test('a put on a lease that is gone writes nothing', async (t, { prefix }) => {
    const id = await settle(registry.grantLease(60))
    await settle(registry.revokeLease(id))

    await t.rejects(put(`${prefix}a`, '1', id), { code: 'ERR_REGISTRY_UNAVAILABLE' })

    t.equal(await get(`${prefix}a`), undefined)
  })

  test('a watch says first that it stands, then every change in order', async (t, {
    prefix,
    follow,
  }) => {
    const from = await put(`${prefix}a`, '1')
    const follower = follow(t, prefix, from)
    await eventually(() => follower.seen.length === 1)

    await put(`${prefix}b`, '2')
    await put('/elsewhere/c', '3')
    const revision = await remove(`${prefix}a`)
    await eventually(() => follower.seen.length === 3)

    t.strictSame(follower.batches[0], [])
    t.strictSame(follower.texts(), [`+${prefix}a=1`, `+${prefix}b=2`, `-${prefix}a`])
    t.equal(follower.seen.at(-1) && revisionOf(follower.seen.at(-1)!), revision)
  })

  test('the writes of one commit arrive together', async (t, { prefix, follow }) => {
    const follower = follow(t, prefix, (await revisionNow()) + 1n)
    const writes = ['a', 'b', 'c'].map(name => ({
      kind: 'put' as const,
      key: prefix + name,
      value: '1',
    }))

    await settle(registry.commit([], writes))
    await eventually(() => follower.seen.length > 0)

    t.equal(follower.batches.at(-1)?.length, 3)
    t.equal(new Set(follower.seen.map(revisionOf)).size, 1)
  })

  test('a watch ends without an error when it is aborted', async (t, { prefix }) => {
    const follower = new Follower(registry, prefix, 1n)
    await eventually(() => follower.batches.length > 0)

    await settle(follower.stop())

    const aborted = registry.watch(prefix, 1n, AbortSignal.abort())
    t.strictSame(await settle(collect(aborted)), [])
  })

  test('a watch that is cut goes on without loss or repetition', async (t, {
    prefix,
    follow,
  }) => {
    const count = 300
    const writer = server.connect()
    t.teardown(() => {
      writer.close()
    })
    const follower = follow(t, prefix, (await revisionNow()) + 1n)

    for (let index = 0; index < count; index++) {
      if (index % 60 === 30) server.cut()
      await eventually(() => writeOnce(settle, writer, `${prefix}${index}`))
    }
    await eventually(() => follower.seen.length >= count)

    t.strictSame(
      follower.texts(),
      Array.from({ length: count }, (_, index) => `+${prefix}${index}=x`),
    )
    t.ok(follower.failures.length >= 1, 'it was cut indeed')
    t.ok(follower.failures.every(({ code }) => code === 'ERR_REGISTRY_UNAVAILABLE'))
  })

  test('a watch from before a compaction says so', async (t, { prefix }) => {
    const from = await put(`${prefix}a`, '1')
    await put(`${prefix}a`, '2')
    await server.compact(await put(`${prefix}a`, '3'))

    const stream = registry.watch(prefix, from, new AbortController().signal)

    await t.rejects(settle(collect(stream)), { code: 'ERR_REVISION_COMPACTED' })
  })

  test('a deletion is not lost when history is cut exactly there', async (t, {
    prefix,
  }) => {
    await put(`${prefix}a`, '1')
    const deleted = await remove(`${prefix}a`)
    await server.compact(deleted)
    const follower = new Follower(registry, prefix, deleted)
    t.teardown(() => settle(follower.stop()))

    await put(`${prefix}b`, '2')
    await eventually(() => follower.failures.length + follower.seen.length > 0)

    const told =
      follower.failures[0]?.code === 'ERR_REVISION_COMPACTED' ||
      follower.texts()[0] === `-${prefix}a`
    t.ok(told, follower.texts().join(' '))
  })

  test('a watch that is up to date does not mind a compaction', async (t, {
    prefix,
    follow,
  }) => {
    const follower = follow(t, prefix, (await revisionNow()) + 1n)
    await put(`${prefix}a`, '1')
    await eventually(() => follower.seen.length === 1)
    await server.compact(await put('/elsewhere/x', '1'))

    await put(`${prefix}b`, '2')
    await eventually(() => follower.seen.length === 2)

    t.strictSame(follower.failures, [])
  })

  test('a server that is down is unavailable, and keeps what it knew', async (t, {
    prefix,
    follow,
  }) => {
    const id = await settle(registry.grantLease(60))
    const from = await put(`${prefix}a`, '1', id)
    const follower = follow(t, prefix, from)
    await eventually(() => follower.seen.length === 1)

    await server.stop()
    const calls: readonly (() => Promise<unknown>)[] = [
      () => registry.get('/x'),
      () => registry.list('/x/'),
      () => registry.commit([], [{ kind: 'delete', key: '/x' }]),
      () => registry.grantLease(60),
      () => registry.keepLeaseAlive(id),
      () => collect(registry.watch(prefix, from, new AbortController().signal)),
    ]
    for (const call of calls) {
      await t.rejects(settle(call()), { code: 'ERR_REGISTRY_UNAVAILABLE' })
    }
    await server.start()
    await eventually(() => registry.get('/x').then(Boolean, () => false))

    t.equal((await get(`${prefix}a`))?.leaseId, id)
    t.equal(await settle(registry.keepLeaseAlive(id)), 60)
    await put(`${prefix}b`, '2')
    await eventually(() => follower.seen.length === 2)
    t.strictSame(follower.texts(), [`+${prefix}a=1`, `+${prefix}b=2`])
  })

  test('a server that lost its data is noticed', async (t, { prefix }) => {
    const seen = await put(`${prefix}a`, '1')
    await server.wipe()
    await eventually(() => registry.get('/x').then(Boolean, () => false))

    const stream = registry.watch(prefix, seen + 1n, new AbortController().signal)

    await t.rejects(settle(collect(stream)), { code: 'ERR_REVISION_REGRESSED' })
    t.strictSame((await settle(registry.list(prefix))).entries, [])
  })

  test('a closed client makes no more calls', async t => {
    const client = server.connect()
    await settle(client.get('/x'))

    client.close()

    await t.rejects(settle(client.get('/x')), { code: 'ERR_REGISTRY_UNAVAILABLE' })
  })
}

/** Watches and, when cut, watches again from behind the last change, as watch-leases does. */
class Follower {
  readonly batches: (readonly Change[])[] = []
  readonly failures: { readonly code: string }[] = []
  readonly #stop = new AbortController()
  readonly #done: Promise<void>

  constructor(registry: Registry, prefix: string, from: bigint) {
    this.#done = this.#follow(registry, prefix, from)
  }

  async #follow(registry: Registry, prefix: string, from: bigint): Promise<void> {
    const { signal } = this.#stop
    let next = from
    while (!signal.aborted) {
      try {
        for await (const batch of registry.watch(prefix, next, signal)) {
          this.batches.push(batch)
          if (batch.length > 0) next = revisionOf(batch.at(-1)!) + 1n
        }
      } catch (error) {
        this.failures.push(error as { code: string })
        if ((error as { code: string }).code !== 'ERR_REGISTRY_UNAVAILABLE') return
        await new Promise(resolve => setImmediate(resolve))
      }
    }
  }

  get seen(): Change[] {
    return this.batches.flat()
  }

  texts(): string[] {
    return this.seen.map(change =>
      change.kind === 'put'
        ? `+${change.entry.key}=${change.entry.value}`
        : `-${change.key}`,
    )
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#done
  }
}

/** Creates a key; true when it is there, also by an earlier try whose answer was lost. */
async function writeOnce(
  settle: RegistryServer['settle'],
  registry: Registry,
  key: string,
): Promise<boolean> {
  const write = { kind: 'put', key, value: 'x' } as const
  try {
    await settle(registry.commit([{ key, modRevision: 0n }], [write]))
    return true
  } catch {
    return false
  }
}

async function collect(
  stream: AsyncIterable<readonly Change[]>,
): Promise<(readonly Change[])[]> {
  const batches: (readonly Change[])[] = []
  for await (const batch of stream) batches.push(batch)
  return batches
}
