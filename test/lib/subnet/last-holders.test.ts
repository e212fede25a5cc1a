import t from 'tap'
import { listLastHolders, markLastHolder } from '../../../lib/subnet/last-holders.js'
import { formatPrefix } from '../../../lib/subnet/prefix.js'
import { LeaseWorld, PREFIX, subnetOf } from '../../helpers/lease-host.js'

const NOW = new Date('2026-01-02T03:04:05.000Z')

t.test('a mark says who took a subnet first and when; IPv6 leaves none', async t => {
  const { registry } = new LeaseWorld().host('a', '1.1.1.1')
  const mark = (hostId: string, now: Date, ...subnet: string[]) =>
    markLastHolder(registry, PREFIX, subnetOf(...subnet), { hostId, now })

  await mark('a', NOW, '10.5.1.0/24', 'fd00::/64')
  await mark('b', NOW, '10.5.2.0/24')
  await mark('a', new Date(), '10.5.1.0/24')

  const marks = await listLastHolders(registry, PREFIX)
  t.strictSame(
    marks.map(({ subnet, hostId, since }) => [formatPrefix(subnet), hostId, since]),
    [
      ['10.5.2.0/24', 'b', NOW],
      ['10.5.1.0/24', 'a', NOW],
    ],
    'longest unused first; since when is kept',
  )
})

t.test('a mark that cannot be read is none', async t => {
  const world = new LeaseWorld()
  const { registry } = world.host('a', '1.1.1.1')
  const marks = ['a', '{}', '{"HostID":"a"}', '{"HostID":"a","Since":"x"}', 'null']
  for (const [index, value] of marks.entries()) {
    const key = `${PREFIX}/last-holders/10.5.${index}.0-24`
    world.etcd.commit([], [{ kind: 'put', key, value }])
  }
  const key = `${PREFIX}/last-holders/rubbish`
  world.etcd.commit([], [{ kind: 'put', key, value: '{"HostID":"a","Since":"2026"}' }])

  t.strictSame(await listLastHolders(registry, PREFIX), [])
})

t.test(
  'marks are a courtesy: where they may not be read or written, none are',
  async t => {
    const { registry } = new LeaseWorld().host('a', '1.1.1.1')
    registry.failNext('list', 'refused')
    registry.failNext('commit', 'refused')

    t.strictSame(await listLastHolders(registry, PREFIX), [])
    await markLastHolder(registry, PREFIX, subnetOf('10.5.1.0/24'), {
      hostId: 'a',
      now: NOW,
    })
    t.strictSame(await listLastHolders(registry, PREFIX), [])
  },
)
