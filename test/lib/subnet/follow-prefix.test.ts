import t, { type Test } from 'tap'
import { LeaseTable } from '../../../lib/subnet/lease-table.js'
import { followPrefix } from '../../../lib/subnet/follow-prefix.js'
import { MemoryRegistry } from '../../fakes/memory-registry.js'
import { LeaseWorld, keyOf } from '../../helpers/lease-host.js'
import { SEED } from '../../helpers/property.js'
import { silent } from '../../helpers/log.js'

const SECOND = 1000

/** A table that follows the registry, and what its owner heard. */
function watch(t: Test, seed = 1) {
  const world = new LeaseWorld(undefined, seed)
  const registry = new MemoryRegistry(world.etcd)
  const table = new LeaseTable()
  const reachable: boolean[] = []
  const heard: string[] = []
  const stop = new AbortController()
  const { clock } = world
  const ended = { done: false }
  const running = followPrefix(
    {
      registry,
      prefix: keyOf(''),
      clock,
      log: silent,
      onSnapshot: snapshot => {
        table.replace(snapshot)
        heard.push(names().join(' '))
      },
      onChanges: changes => {
        table.apply(changes, 0)
        table.settle(0)
        heard.push(names().join(' '))
      },
      onReachable: now => {
        if (now !== reachable.at(-1)) reachable.push(now)
      },
    },
    stop.signal,
  ).finally(() => (ended.done = true))
  const names = (): string[] =>
    table
      .records()
      .map(
        ({ key, holder }) => `${key.slice(keyOf('').length)}=${holder.publicIp?.value}`,
      )
      .sort()
  t.teardown(() => {
    stop.abort()
    return running
  })
  return {
    world,
    registry,
    table,
    reachable,
    heard,
    stop,
    running,
    ended,
    names,
  }
}

const value = (last: number): string =>
  `{"PublicIP":"0.0.0.${last}"}`.replace('0.0.0', '1.0.0')
const shown = (subnet: number, last: number): string =>
  `10.5.${subnet}.0-24=${0x01000000 + last}`

t.test('the table follows what others do', async t => {
  const { world, heard } = watch(t)
  await world.clock.settle()

  world.put('10.5.1.0-24', value(1))
  await world.clock.settle()
  world.put('10.5.1.0-24', value(2))
  await world.clock.settle()
  world.remove('10.5.1.0-24')
  await world.clock.settle()

  t.strictSame(heard, ['', shown(1, 1), shown(1, 2), ''])
})

t.test('what is there already is heard at once', async t => {
  const { world, heard } = watch(t)
  world.put('10.5.1.0-24', value(1))
  world.put('10.5.2.0-24', value(2))
  await world.clock.settle()

  t.strictSame(heard, [`${shown(1, 1)} ${shown(2, 2)}`])
})

t.test('a cut is mended, and what happened meanwhile is heard as one change', async t => {
  const { world, heard, reachable } = watch(t)
  await world.clock.settle()
  world.put('10.5.1.0-24', value(1))
  await world.clock.settle()

  world.etcd.cut()
  world.put('10.5.2.0-24', value(2))
  world.remove('10.5.1.0-24')
  await world.clock.advance(SECOND)

  t.strictSame(heard, ['', shown(1, 1), shown(2, 2)])
  t.strictSame(reachable, [true, false, true])
})

t.test(
  'an etcd restored from a backup that has caught up since fools nobody',
  async t => {
    const { world, names } = watch(t)
    for (const subnet of [1, 2, 3]) world.put(`10.5.${subnet}.0-24`, value(subnet))
    await world.clock.settle()
    const backup = world.etcd.backup()
    world.put('10.5.4.0-24', value(4))
    world.remove('10.5.1.0-24')
    await world.clock.settle()

    world.etcd.restore(backup)
    for (const last of [5, 6, 7, 8]) world.put('10.5.2.0-24', value(last))
    await world.clock.advance(SECOND)

    t.strictSame(names(), [shown(1, 1), shown(2, 8), shown(3, 3)])
  },
)

t.test('while etcd is away for hours the table stays', async t => {
  const { world, names, reachable, ended } = watch(t)
  world.put('10.5.1.0-24', value(1))
  await world.clock.settle()

  world.etcd.stop()
  await world.clock.advance(3 * 3600 * SECOND)
  t.strictSame(names(), [shown(1, 1)])
  t.strictSame(reachable, [true, false])
  t.equal(ended.done, false)

  world.etcd.start()
  world.put('10.5.2.0-24', value(2))
  await world.clock.advance(5 * SECOND)

  t.strictSame(names(), [shown(1, 1), shown(2, 2)])
  t.strictSame(reachable, [true, false, true])
})

t.test(
  'after a compaction it lists again: gone, new and changed records are right',
  async t => {
    const { world, registry, names } = watch(t)
    for (const subnet of [1, 2, 3]) world.put(`10.5.${subnet}.0-24`, value(subnet))
    await world.clock.settle()

    registry.partition()
    await world.clock.advance(20 * SECOND)
    world.remove('10.5.1.0-24')
    world.put('10.5.2.0-24', value(9))
    world.put('10.5.4.0-24', value(4))
    world.etcd.compact(world.etcd.revision)
    registry.heal()
    await world.clock.advance(20 * SECOND)

    t.strictSame(names(), [shown(2, 9), shown(3, 3), shown(4, 4)])
  },
)

t.test('a wiped etcd is noticed, and what comes after is seen', async t => {
  const { world, names } = watch(t)
  for (const subnet of [1, 2, 3]) world.put(`10.5.${subnet}.0-24`, value(subnet))
  await world.clock.settle()

  world.etcd.wipe()
  world.put('10.5.2.0-24', value(2))
  await world.clock.advance(5 * SECOND)
  world.put('10.5.7.0-24', value(7))
  await world.clock.settle()

  t.strictSame(names(), [shown(2, 2), shown(7, 7)])
})

t.test('when etcd refuses, it is said, and tried again', async t => {
  const { world, registry, names, reachable } = watch(t)
  registry.failNext('watch', 'refused')
  registry.failNext('watch', 'refused')
  world.put('10.5.1.0-24', value(1))

  await world.clock.advance(5 * SECOND)

  t.strictSame(names(), [shown(1, 1)])
  t.strictSame(reachable, [false, true])
})

t.test('a malformed record changes nothing else', async t => {
  const { world, table, names } = watch(t)
  await world.clock.settle()

  world.put('10.5.1.0-24', '{')
  world.put('../../etc', 'x')
  world.put('10.5.2.0-24', value(2))
  await world.clock.settle()

  t.strictSame(names(), [shown(2, 2)])
  t.equal(table.bad().length, 2)
})

t.test('whatever happens to etcd and the way to it, the table ends up equal', async t => {
  for (let seed = SEED; seed < SEED + 40; seed++) {
    const { world, registry, table, stop, running } = watch(t, seed)
    const { clock, etcd } = world
    const pick = (count: number): number => Math.floor(clock.random() * count)
    const events = [
      () => {
        etcd.cut()
      },
      () => {
        etcd.compact(etcd.revision)
      },
      () => {
        registry.partition()
      },
      () => {
        registry.heal()
      },
      () => {
        if (etcd.up) etcd.stop()
        else etcd.start()
      },
      () => {
        registry.failNext('list', 'answer lost')
      },
      () => {
        registry.failNext('watch', 'not sent')
      },
      () => {
        if (pick(4) === 0) etcd.wipe()
      },
    ]
    for (let step = 0; step < 60; step++) {
      const name = `10.5.${pick(6)}.0-24`
      if (pick(3) === 0) world.remove(name)
      else world.put(name, value(1 + pick(9)))
      if (pick(2) === 0) events[pick(events.length)]!()
      await clock.advance(pick(3) === 0 ? pick(20_000) : pick(50))
    }
    if (!etcd.up) etcd.start()
    registry.heal()
    await clock.advance(60 * SECOND)

    const expected = new LeaseTable()
    expected.replace(etcd.read(keyOf('')))
    const text = (of: LeaseTable) =>
      of
        .records()
        .map(({ key, modRevision }) => `${key} ${modRevision}`)
        .sort()
    t.strictSame(text(table), text(expected), `seed ${seed}`)
    stop.abort()
    await clock.until(running)
  }
})

t.test('it ends when told to, in every state', async t => {
  const { world, registry, stop, running } = watch(t)
  registry.partition()
  await world.clock.advance(SECOND)

  stop.abort()
  await world.clock.until(running)

  const second = watch(t)
  second.stop.abort()
  await second.world.clock.until(second.running)
  t.equal(second.ended.done, true)
})
