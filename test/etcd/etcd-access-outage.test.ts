import { once } from 'node:events'
import { type AddressInfo, type Socket, createServer } from 'node:net'
import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { Follower } from '../helpers/follower.js'
import { collectLog } from '../helpers/log.js'
import { RealEtcd, freePort } from '../helpers/real-etcd.js'
import { openTcpProxy } from '../helpers/tcp-proxy.js'
import { waitFor } from '../helpers/wait-for.js'

/** What a read may take that meets two silent endpoints first, each for a second; a call to one takes 5 s. */
const BOUND_MS = 4500

/** What many calls may take when no read of them meets two silent endpoints, a second for each. */
const READS_MS = 1900

/** What a write may take that does not meet one: 5 s. */
const WRITE_MS = 4000

const etcd = await RealEtcd.open()
t.teardown(() => etcd.close())

/** An endpoint that accepts connections and never says a word. */
async function openBlackHole(t: Test): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function msOf(act: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await act()
  return Math.round(performance.now() - started)
}

t.test('black holes and dead endpoints cost one read a bounded time, once', async t => {
  const holes = [await openBlackHole(t), await openBlackHole(t)]
  const dead = `http://127.0.0.1:${await freePort()}`
  const times: { first: number; later: number }[] = []
  // The best of three: a machine that stands still is not an endpoint that does.
  for (let go = 0; go < 3; go++) {
    const { log, messages } = collectLog()
    const registry = new EtcdRegistry({
      endpoints: [...holes, dead, etcd.endpoint],
      log,
    })
    t.teardown(() => {
      registry.close()
    })

    const first = await msOf(() => registry.list('/'))
    const later = await msOf(async () => {
      const id = await registry.grantLease(60)
      for (let round = 0; round < 10; round++) {
        await registry.get('/a')
        await registry.commit([], [{ kind: 'put', key: '/a', value: 'x', leaseId: id }])
        await registry.keepLeaseAlive(id)
      }
      await registry.revokeLease(id)
    })

    t.equal(registry.endpoint, etcd.endpoint)
    t.strictSame(messages, ['etcd is used at another endpoint'])
    times.push({ first, later })
    if (first < BOUND_MS && later < READS_MS) break
  }
  const said = JSON.stringify(times)
  t.ok(Math.min(...times.map(({ first }) => first)) < BOUND_MS, said)
  t.ok(Math.min(...times.map(({ later }) => later)) < READS_MS, said)
})

t.test('when nobody answers, every endpoint is named with its reason', async t => {
  const hole = await openBlackHole(t)
  const dead = `http://127.0.0.1:${await freePort()}`
  const registry = new EtcdRegistry({ endpoints: [dead, hole] })
  t.teardown(() => {
    registry.close()
  })

  await t.rejects(registry.get('/a'), {
    code: 'ERR_REGISTRY_UNAVAILABLE',
    message: `etcd at ${dead} is not available: connection refused; etcd at ${hole} is not available: no answer in 5 s`,
  })
})

t.test('calls leave an endpoint that falls silent, and so does a watch', async t => {
  const [near, far] = [await openTcpProxy(etcd.port), await openTcpProxy(etcd.port)]
  const endpoints = [near, far].map(({ port }) => `http://127.0.0.1:${port}`)
  const registry = new EtcdRegistry({ endpoints })
  const follower = await Follower.open(registry, '/silent/')
  t.teardown(async () => {
    await follower.stop()
    registry.close()
    await Promise.all([near.close(), far.close()])
  })
  const put = (value: string): Promise<unknown> =>
    registry.commit([], [{ kind: 'put', key: '/silent/a', value }])
  await put('1')
  await waitFor('the change', () => follower.values[0])

  near.swallowAnswers = true
  const read = await msOf(() => registry.get('/silent/a'))
  const write = await msOf(() => put('2'))
  await waitFor('the change that was missed', () => follower.values[1])
  await put('3')
  await waitFor('the change after that', () => follower.values[2])

  t.ok(read < BOUND_MS, `${read} ms`)
  t.ok(write < WRITE_MS, `${write} ms`)
  t.strictSame(follower.values, ['1', '2', '3'])
  t.equal(registry.endpoint, endpoints[1])
})
