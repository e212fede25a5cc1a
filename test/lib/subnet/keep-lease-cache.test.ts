import t from 'tap'
import { keepLeaseCache } from '../../../lib/subnet/keep-lease-cache.js'
import { LeaseView } from '../../../lib/subnet/lease-view.js'
import { LeaseWorld, PREFIX } from '../../helpers/lease-host.js'
import { silent } from '../../helpers/log.js'

const SECOND = 1000

t.test('changes are gathered, our own record is written at once', async t => {
  const world = new LeaseWorld()
  const { clock } = world
  const host = world.host('host-a', '1.1.1.1')
  const held = await host.acquire()
  const view = new LeaseView({
    registry: host.registry,
    prefix: PREFIX,
    clock,
    log: silent,
  })
  const keeper = host.keeper(held)
  const stop = new AbortController()
  const written: number[] = []
  const begin = clock.now()
  const loop = keepLeaseCache({
    tenure: { keeper, view },
    clock,
    write: () => {
      written.push((clock.now() - begin) / SECOND)
    },
  })
  const running = [loop(stop.signal), view.run(stop.signal), keeper.run(stop.signal)]
  const times = (): number[] => written.map(time => Math.round(time * 10) / 10)
  t.teardown(async () => {
    stop.abort()
    await Promise.all(running)
  })

  for (let change = 0; change < 12; change++) {
    world.put(`10.5.${change + 100}.0-24`, '{"PublicIP":"9.9.9.9"}')
    await clock.advance(SECOND / 10)
  }
  t.strictSame(times(), [0, 0.5, 1], 'changes that follow each other closely')
  await clock.advance(SECOND)
  world.put('10.5.99.0-24', '{"PublicIP":"9.9.9.9"}')
  await clock.advance(0)
  t.strictSame(times().slice(3), [1.5, 2.2], 'one after a pause is written at once')

  world.remove(held.key.slice(held.key.lastIndexOf('/') + 1))
  keeper.checkNow()
  await clock.advance(SECOND / 10)
  t.not(keeper.held.createRevision, held.createRevision)
  t.strictSame(times().slice(5), [2.2], 'and our record though one was just written')

  await clock.advance(130 * SECOND)
  t.strictSame(times().slice(6), [62.7, 123.2], 'and now and then')
})
