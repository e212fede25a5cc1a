import t from 'tap'
import type { Test } from 'tap'
import { NamePublisher } from '../../../lib/names/name-publisher.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import { MemoryEtcd } from '../../fakes/memory-etcd.js'
import { MemoryRegistry } from '../../fakes/memory-registry.js'
import { silent } from '../../helpers/log.js'

const SECOND = 1000

interface World {
  readonly clock: ManualClock
  readonly registry: MemoryRegistry
  readonly publisher: NamePublisher
  /** What anybody finds in etcd. */
  readonly found: () => Record<string, string>
  readonly stop: (isOver: boolean) => Promise<void>
}

function start(t: Test): World {
  const clock = new ManualClock({ seed: 1 })
  const etcd = new MemoryEtcd(clock)
  const registry = new MemoryRegistry(etcd)
  const publisher = new NamePublisher({ registry, clock, log: silent })
  const ended = new AbortController()
  let isOver = true
  const running = publisher.run(ended.signal, () => isOver)
  const stop = async (over: boolean): Promise<void> => {
    isOver = over
    ended.abort()
    await running
  }
  t.teardown(() => stop(true))
  const found = (): Record<string, string> =>
    Object.fromEntries(
      etcd.read('/skydns/').entries.map(({ key, value }) => [key, value] as const),
    )
  return { clock, registry, publisher, found, stop }
}

const records = (...names: string[]): Map<string, string> =>
  new Map(names.map(name => [`/skydns/${name}`, `"${name}"`]))

t.test('what is wanted is there, and nothing else', async t => {
  const { clock, publisher, found } = start(t)
  publisher.want(records('a', 'b'))
  await clock.advance(SECOND)
  t.same(found(), { '/skydns/a': '"a"', '/skydns/b': '"b"' })
  publisher.want(records('b', 'c'))
  await clock.advance(SECOND)
  t.same(found(), { '/skydns/b': '"b"', '/skydns/c': '"c"' })
  await clock.advance(3600 * SECOND)
  t.same(Object.keys(found()).length, 2, 'the lease is renewed')
})

t.test('it costs a call in fifteen seconds when nothing changes', async t => {
  const { clock, registry, publisher } = start(t)
  publisher.want(records('a'))
  await clock.advance(SECOND)
  const before = registry.calls.length
  await clock.advance(600 * SECOND)
  t.equal(registry.calls.length - before, 40)
})

t.test('they go with the host, a minute later', async t => {
  const { clock, publisher, found, stop } = start(t)
  publisher.want(records('a'))
  await clock.advance(SECOND)
  await stop(false)
  await clock.advance(30 * SECOND)
  t.equal(Object.keys(found()).length, 1, 'a restart of the daemon loses no name')
  await clock.advance(60 * SECOND)
  t.same(found(), {})
})

t.test('they go at once when the host gives up its subnet', async t => {
  const { clock, publisher, found, stop } = start(t)
  publisher.want(records('a'))
  await clock.advance(SECOND)
  await stop(true)
  t.same(found(), {})
})

t.test('etcd that is away for long is told everything again', async t => {
  const { clock, registry, publisher, found } = start(t)
  publisher.want(records('a', 'b'))
  await clock.advance(SECOND)
  registry.partition()
  publisher.want(records('b', 'c'))
  await clock.advance(300 * SECOND)
  t.type(publisher.trouble, 'string')
  t.same(found(), {}, 'the lease is over')
  registry.heal()
  await clock.advance(30 * SECOND)
  t.equal(publisher.trouble, undefined)
  t.same(found(), { '/skydns/b': '"b"', '/skydns/c': '"c"' })
})

t.test('a write of which nobody knows whether it happened', async t => {
  const { clock, registry, publisher, found } = start(t)
  publisher.want(records('a', 'b'))
  await clock.advance(SECOND)
  registry.failNext('commit', 'answer lost')
  publisher.want(records('b'))
  await clock.advance(120 * SECOND)
  t.same(found(), { '/skydns/b': '"b"' })
})
