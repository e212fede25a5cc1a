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
  t.teardown(async () => {
    stop.abort()
    await Promise.all(running)
  })

  for (let second = 0; second < 12; second++) {
    world.put(`10.5.${second + 100}.0-24`, '{"PublicIP":"9.9.9.9"}')
    await clock.advance(SECOND)
  }
  t.strictSame(written, [0, 5, 10], 'changes that follow each other closely')

  world.remove(held.key.slice(held.key.lastIndexOf('/') + 1))
  keeper.checkNow()
  await clock.advance(SECOND)
  t.not(keeper.held.createRevision, held.createRevision)
  t.strictSame(written, [0, 5, 10, 12], 'our record is another')

  await clock.advance(130 * SECOND)
  t.strictSame(written.slice(4), [77, 142], 'and now and then')
})
