import t from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { Follower } from '../helpers/follower.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { waitFor } from '../helpers/wait-for.js'

t.test('an etcd that is stopped longer than every timeout loses no change', async t => {
  const etcd = await RealEtcd.open()
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  const follower = await Follower.open(registry, '/frozen/')
  t.teardown(async () => {
    etcd.thaw()
    await follower.stop()
    registry.close()
    await etcd.close()
  })
  const put = (value: string): Promise<unknown> =>
    registry.commit([], [{ kind: 'put', key: '/frozen/a', value }])
  const id = await registry.grantLease(3600)
  await put('before')
  await waitFor('the change', () => follower.values[0])

  await etcd.freeze()
  const calls = [put('lost answer'), registry.get('/a'), registry.keepLeaseAlive(id)]
  for (const call of await Promise.allSettled(calls)) {
    t.match(call, { status: 'rejected', reason: { code: 'ERR_REGISTRY_UNAVAILABLE' } })
  }
  await waitFor('the watch to notice', () => follower.failures[0])
  etcd.thaw()
  await waitFor('etcd', async () => {
    await put('after')
    return true
  })
  await waitFor('the watch', () => follower.values.at(-1) === 'after')

  t.strictSame(
    follower.values.filter(
      (value, index, all) => value !== 'lost answer' && value !== all[index - 1],
    ),
    ['before', 'after'],
  )
  t.equal(await registry.keepLeaseAlive(id), 3600)
})
