import t from 'tap'
import { LeaseView } from '../../../lib/subnet/lease-view.js'
import { MemoryRegistry } from '../../fakes/memory-registry.js'
import { LeaseWorld, PREFIX } from '../../helpers/lease-host.js'
import { collectLog } from '../../helpers/log.js'

const SECOND = 1000

t.test('etcd is back when leases can be watched, not when they can be read', async t => {
  const world = new LeaseWorld()
  const registry = new MemoryRegistry(world.etcd)
  const { log, messages } = collectLog()
  const view = new LeaseView({ registry, prefix: PREFIX, clock: world.clock, log })
  const stop = new AbortController()
  const running = view.run(stop.signal)
  t.teardown(() => {
    stop.abort()
    return running
  })
  await world.clock.settle()
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
