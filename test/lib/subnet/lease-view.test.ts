import t, { type Test } from 'tap'
import {
  LeaseView,
  type OwnMark,
  type ViewMemory,
} from '../../../lib/subnet/lease-view.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { MemoryRegistry } from '../../fakes/memory-registry.js'
import { LeaseWorld, PREFIX, keyOf } from '../../helpers/lease-host.js'
import { collectLog } from '../../helpers/log.js'

const SECOND = 1000
const MINUTE = 60 * SECOND

const NAME = '10.5.9.0-24'
const HERE = '{"PublicIP":"1.1.1.1"}'
const THERE = '{"PublicIP":"2.2.2.2"}'

/** Of a lease that ended long ago: it proves nothing. */
const OWN: OwnMark = {
  key: keyOf('10.5.1.0-24'),
  createRevision: 1n,
  leaseId: '7',
  expiresAt: 0,
}

async function startView(
  t: Test,
  world: LeaseWorld,
  memory?: ViewMemory,
  latencyMs = 0,
  own = OWN,
) {
  const registry = new MemoryRegistry(world.etcd, { latencyMs: () => latencyMs })
  const { log, messages } = collectLog()
  const view = new LeaseView({ registry, prefix: PREFIX, clock: world.clock, log })
  if (memory) view.remember(memory, own)
  const stop = new AbortController()
  const running = view.run(stop.signal)
  const end = async (): Promise<void> => {
    stop.abort()
    await running
  }
  t.teardown(end)
  await world.clock.settle()
  return { registry, view, messages, end }
}

t.test('etcd is back when leases can be watched, not when they can be read', async t => {
  const world = new LeaseWorld()
  const { registry, view, messages } = await startView(t, world)
  t.equal(view.reachable, true)

  world.etcd.stop()
  await world.clock.advance(10 * SECOND)
  t.equal(view.reachable, false)

  for (let times = 0; times < 5; times++) registry.failNext('watch', 'refused')
  world.etcd.start()
  await world.clock.advance(6 * SECOND)
  t.equal(view.reachable, false, 'a read is answered, a watch is not')

  world.etcd.stop()
  await world.clock.advance(3600 * SECOND)
  t.equal(view.reachable, false, 'and is away again')

  world.etcd.start()
  await world.clock.advance(60 * SECOND)
  t.equal(view.reachable, true)
  t.strictSame(
    messages,
    [
      'cannot watch leases; forwarding goes on with the last known ones',
      'etcd answers again',
    ],
    'one word each',
  )
})

t.test('a restored etcd is recognised by any record, however far it has got', async t => {
  const world = new LeaseWorld()
  world.put(NAME, HERE)
  const early = world.etcd.backup()
  for (const garbage of ['a', 'b', 'c', 'd']) world.put('garbage', garbage)
  const late = world.etcd.backup()
  world.etcd.restore(early)
  const { view } = await startView(t, world)
  world.put(NAME, THERE)
  await world.clock.advance(SECOND)
  const moved = view.table.get(keyOf(NAME))

  world.etcd.restore(late)
  await world.clock.advance(SECOND)

  t.strictSame(view.table.get(keyOf(NAME)), moved, 'its word is an old one')
  t.ok(view.table.isDoubted(keyOf(NAME)))
  t.strictSame(view.table.bad(), [
    { key: keyOf('garbage'), why: view.table.bad()[0]?.why },
  ])
})

t.test('a registry that went on while nobody listened is believed', async t => {
  const world = new LeaseWorld()
  for (const [name, value] of [
    [NAME, HERE],
    ['10.5.8.0-24', THERE],
    ['garbage', 'x'],
  ] as const)
    world.put(name, value)
  const first = await startView(t, world)
  await first.end()
  world.put('garbage', HERE)
  world.put(NAME, THERE)
  world.etcd.commit([], [{ kind: 'delete', key: keyOf('10.5.8.0-24') }])

  const { view } = await startView(t, world, first.view.memory())

  t.notOk(view.table.isDoubted(keyOf(NAME)))
  t.equal(view.table.get(keyOf('10.5.8.0-24')), undefined)
  t.strictSame(view.table.orphans(), [])
})

t.test('our record that is written while a list is on its way is not missed', async t => {
  const world = new LeaseWorld()
  world.put(NAME, HERE)
  const before = await startView(t, world)
  await before.end()
  world.remove(NAME)

  // Read after one second, and here after two.
  const { view } = await startView(t, world, before.view.memory(), SECOND)
  await world.clock.advance(1.5 * SECOND)
  const leaseId = world.etcd.grant(3600)
  world.put('10.5.1.0-24', HERE, leaseId)
  const entry = world.etcd.get(OWN.key)
  view.setOwn({
    ...{ key: OWN.key, createRevision: entry?.createRevision ?? 0n, leaseId },
    expiresAt: world.clock.now() + 3600 * SECOND,
  })
  await world.clock.advance(10 * SECOND)

  t.equal(view.lists, 1)
  t.strictSame(view.table.orphans(), [], 'a host that has left is forgotten')
  t.strictSame(
    view.table.records().map(({ key }) => key),
    [OWN.key],
  )
})

t.test('but one that we had when the list began has to be in it', async t => {
  const world = new LeaseWorld()
  world.put(NAME, HERE)
  const before = await startView(t, world)
  await before.end()
  world.remove(NAME)

  const own = { ...OWN, expiresAt: world.clock.now() + 3600 * SECOND }
  const { view } = await startView(t, world, before.view.memory(), SECOND, own)
  await world.clock.advance(1.5 * SECOND)
  view.setOwn({ ...own, key: keyOf('10.5.2.0-24'), leaseId: '8' })
  await world.clock.advance(10 * SECOND)

  t.strictSame(
    view.table.orphans().map(({ key }) => key),
    [keyOf(NAME)],
    'a host that such an etcd does not know may be there',
  )
})

t.test(
  'who starts again and again keeps a forgotten host no longer for that',
  async t => {
    const world = new LeaseWorld()
    world.put(NAME, HERE)
    let { view, end } = await startView(t, world)
    world.etcd.wipe()
    world.putConfig()
    await world.clock.advance(MINUTE)
    const [forgotten] = view.table.orphans()
    t.match(forgotten, { key: keyOf(NAME) })

    for (let minute = 0; minute < 12; minute++) {
      await end()
      ;({ view, end } = await startView(t, world, view.memory()))
      await world.clock.advance(MINUTE)
      t.strictSame(view.table.orphans(), [forgotten])
    }
    await world.clock.advance(3 * MINUTE)
    t.strictSame(view.table.records(), [])
  },
)

t.test('a host knows its old lease in a restored etcd, wherever it was then', async t => {
  const world = new LeaseWorld()
  const lease = world.etcd.grant(3600)
  world.put(NAME, '{"PublicIP":"1.1.1.1","HostID":"us"}', lease)
  const backup = world.etcd.backup()
  world.put(NAME, '{"PublicIP":"2.2.2.2","HostID":"other"}', lease)
  const { view } = await startView(t, world)

  world.etcd.restore(backup)
  await world.clock.advance(SECOND)

  const us = { publicIp: parseAddress('3.3.3.3'), backendType: '', hostId: 'us' }
  const old = view.forgottenLeases(us, keyOf('10.5.1.0-24'))
  t.strictSame(
    old.map(({ key }) => key),
    [keyOf(NAME)],
    'another has held it since',
  )
  const copy = { ...us, hostId: 'other' }
  t.strictSame(
    view.forgottenLeases(copy, keyOf('10.5.1.0-24')),
    [],
    'and not a copy of it',
  )

  // What is known of the key is of the history that is gone; its revision means nothing.
  const other = { publicIp: parseAddress('2.2.2.2'), backendType: '', hostId: 'other' }
  t.strictSame(view.forgottenLeases(other, keyOf('10.5.1.0-24')), [])
})
