import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { openEtcdClient } from '../../lib/subnet/etcd-client.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { registryContract } from '../contracts/registry-contract.js'
import { RealEtcd, freePort } from '../helpers/real-etcd.js'
import { openTcpProxy } from '../helpers/tcp-proxy.js'

const etcd = await RealEtcd.open()
t.teardown(() => etcd.close())

t.test('the registry in etcd keeps the contract', async t => {
  const proxy = await openTcpProxy(etcd.port)
  const endpoint = `http://127.0.0.1:${proxy.port}`
  const clients: EtcdRegistry[] = []
  const operator = openEtcdClient(etcd.endpoint)
  await registryContract(t, () =>
    Promise.resolve({
      connect: () => {
        const client = new EtcdRegistry({ endpoints: [endpoint] })
        clients.push(client)
        return client
      },
      sleep: ms => delay(ms),
      settle: promise => promise,
      compact: async revision => {
        await operator.kv.compact({ revision: String(revision), physical: true })
      },
      cut: () => {
        proxy.cut()
      },
      stop: () => etcd.kill(),
      start: () => etcd.start(),
      wipe: async () => {
        await etcd.wipe()
        await etcd.start()
      },
      close: async () => {
        operator.close()
        for (const client of clients) client.close()
        await proxy.close()
      },
    }),
  )
})

t.test('with one endpoint dead every call and watch finds the other', async t => {
  const dead = `http://127.0.0.1:${await freePort()}`
  const registry = new EtcdRegistry({ endpoints: [dead, etcd.endpoint] })
  t.teardown(() => {
    registry.close()
  })

  for (let round = 0; round < 10; round++) await registry.get('/x')
  const stop = new AbortController()
  for await (const batch of registry.watch('/x/', 1n, stop.signal)) {
    t.strictSame(batch, [])
    stop.abort()
  }

  t.equal(registry.endpoint, etcd.endpoint)
})

t.test('a commit whose answer is lost fails in time, and has happened', async t => {
  const proxy = await openTcpProxy(etcd.port)
  const registry = new EtcdRegistry({ endpoints: [`http://127.0.0.1:${proxy.port}`] })
  t.teardown(async () => {
    registry.close()
    await proxy.close()
  })
  const key = '/lost-answer'
  await registry.get(key)
  const started = performance.now()

  proxy.swallowAnswers = true
  const guards = [{ key, modRevision: 0n }]
  await t.rejects(registry.commit(guards, [{ kind: 'put', key, value: '1' }]), {
    code: 'ERR_REGISTRY_UNAVAILABLE',
    message: /^etcd at http:\/\/127\.0\.0\.1:\d+ is not available: no answer in 5 s$/,
  })
  const tookMs = performance.now() - started
  proxy.swallowAnswers = false
  proxy.cut()

  t.ok(tookMs > 4000 && tookMs < 15_000, `${Math.round(tookMs)} ms`)
  t.equal((await registry.get(key)).entry?.value, '1')
})

t.test('keys that are no text are listed once each', async t => {
  const operator = openEtcdClient(etcd.endpoint)
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  t.teardown(() => {
    operator.close()
    registry.close()
  })
  const keys = Array.from({ length: 300 }, (_, index) =>
    Buffer.concat([Buffer.from('/bytes/'), Buffer.of(0xf0, index >> 8, index & 255)]),
  )
  for (const key of keys) await operator.kv.put({ key, value: Buffer.alloc(0) })

  const { entries } = await registry.list('/bytes/')

  t.strictSame(
    entries.map(({ key }) => key),
    keys.map(key => key.toString()),
  )
})

t.test('without an endpoint there is no registry', t => {
  t.throws(
    () => new EtcdRegistry({ endpoints: [] }),
    new TypeError('no etcd endpoint given'),
  )
  t.end()
})
