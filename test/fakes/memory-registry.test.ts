import t from 'tap'
import { registryContract } from '../contracts/registry-contract.js'
import { ManualClock } from './manual-clock.js'
import { MemoryEtcd } from './memory-etcd.js'
import { MemoryRegistry } from './memory-registry.js'

t.test('the memory registry keeps the contract', async t => {
  const clock = new ManualClock()
  const etcd = new MemoryEtcd(clock)
  await registryContract(t, () =>
    Promise.resolve({
      connect: () => new MemoryRegistry(etcd),
      sleep: ms => clock.advance(ms),
      settle: promise => clock.until(promise),
      compact: revision => {
        etcd.compact(revision)
        return Promise.resolve()
      },
      cut: () => {
        etcd.cut()
      },
      stop: () => {
        etcd.stop()
        return Promise.resolve()
      },
      start: () => {
        etcd.start()
        return Promise.resolve()
      },
      wipe: () => {
        etcd.wipe()
        return Promise.resolve()
      },
      close: () => Promise.resolve(),
    }),
  )
})

t.test('troubles on the way', t => {
  const open = () => {
    const clock = new ManualClock()
    const etcd = new MemoryEtcd(clock)
    return { clock, etcd, registry: new MemoryRegistry(etcd) }
  }
  const unavailable = { code: 'ERR_REGISTRY_UNAVAILABLE' }
  const write = [{ kind: 'put', key: '/a', value: '1' }] as const

  t.test('a call that is not sent does nothing, once', async t => {
    const { etcd, registry } = open()
    registry.failNext('commit', 'not sent')

    await t.rejects(registry.commit([], write), unavailable)

    t.equal(etcd.get('/a'), undefined)
    t.equal((await registry.commit([], write)).succeeded, true)
    t.strictSame(registry.calls, ['commit', 'commit'])
  })

  t.test('a call whose answer is lost has happened', async t => {
    const { etcd, registry } = open()
    registry.failNext('commit', 'answer lost')

    await t.rejects(registry.commit([], write), unavailable)

    t.equal(etcd.get('/a')?.value, '1')
  })

  t.test('a call may be refused', async t => {
    const { registry } = open()
    registry.failNext('list', 'refused')

    await t.rejects(registry.list('/'), { code: 'ERR_REGISTRY_REFUSED' })
  })

  t.test('across a partition calls end in 5 s and a watch in 15 s', async t => {
    const { clock, registry } = open()
    const watch = registry.watch('/', 1n, new AbortController().signal)
    const batches = watch[Symbol.asyncIterator]()
    await batches.next()
    const next = batches.next()
    next.catch(() => undefined)
    const started = clock.now()

    registry.partition()
    await t.rejects(clock.until(registry.get('/a')), unavailable)
    t.equal(clock.now() - started, 5000)
    await t.rejects(clock.until(next), unavailable)
    t.equal(clock.now() - started, 15_000)

    registry.heal()
    t.equal((await registry.get('/a')).entry, undefined)
  })

  t.test('a watch outlives a short partition and loses nothing', async t => {
    const { clock, etcd, registry } = open()
    const watch = registry.watch('/', 1n, new AbortController().signal)
    const batches = watch[Symbol.asyncIterator]()
    await batches.next()
    const next = batches.next()
    registry.partition()
    etcd.commit([], write)
    await clock.advance(3000)

    registry.heal()

    t.match(await clock.until(next), { value: [{ kind: 'put', entry: { key: '/a' } }] })
  })

  t.test('a restored backup brings the old revision back', async t => {
    const { etcd, registry } = open()
    await registry.commit([], write)
    const backup = etcd.backup()
    const { revision } = await registry.commit([], [{ kind: 'delete', key: '/a' }])
    const next = revision + 1n

    etcd.restore(backup)

    t.equal((await registry.get('/a')).entry?.value, '1')
    const watch = registry.watch('/', next, new AbortController().signal)
    await t.rejects(watch[Symbol.asyncIterator]().next(), {
      code: 'ERR_REVISION_REGRESSED',
    })
  })

  t.test('an answer takes its time', async t => {
    const { clock, etcd } = open()
    const slow = new MemoryRegistry(etcd, { latencyMs: () => 20 })
    const started = clock.now()

    await clock.until(slow.get('/a'))

    t.equal(clock.now() - started, 40)
  })
  t.end()
})
