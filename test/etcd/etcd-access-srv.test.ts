import { Resolver } from 'node:dns/promises'
import t, { type Test } from 'tap'
import type { EtcdOptions } from '../../lib/subnet/etcd-cluster.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { resolveEndpoints } from '../../lib/subnet/etcd-srv.js'
import { TlsFiles } from '../../lib/subnet/tls-files.js'
import { Authority } from '../helpers/certificates.js'
import { type DnsServer, openDnsServer } from '../helpers/dns-server.js'
import { RealEtcd, freePort } from '../helpers/real-etcd.js'

const SECURE = '_etcd-client-ssl._tcp.example.com'
const PLAIN = '_etcd-client._tcp.example.com'

const authority = new Authority()
const [plain, secure] = await Promise.all([
  RealEtcd.open(),
  RealEtcd.open({ tls: authority.sign({ names: 'DNS:localhost' }) }),
])
t.teardown(async () => {
  await Promise.all([plain.close(), secure.close()])
  authority.remove()
})

/** @param timeoutMs short where it is waited for that nobody answers. */
async function openDns(
  t: Test,
  timeoutMs = 10_000,
): Promise<{ dns: DnsServer; resolver: Resolver }> {
  const dns = await openDnsServer()
  t.teardown(() => dns.close())
  const resolver = new Resolver({ timeout: timeoutMs, tries: 1 })
  resolver.setServers([dns.address])
  return { dns, resolver }
}

function connect(
  t: Test,
  resolver: Resolver,
  options: Partial<EtcdOptions> = {},
): EtcdRegistry {
  const registry = new EtcdRegistry({
    endpoints: ['srv://example.com'],
    resolver,
    ...options,
  })
  t.teardown(() => {
    registry.close()
  })
  return registry
}

function record(port: number, priority = 0, weight = 0, target = 'localhost') {
  return { priority, weight, port, target }
}

t.test('DNS names the endpoints, those with TLS first', async t => {
  const { dns, resolver } = await openDns(t)
  dns.zone.set(PLAIN, [record(plain.port)])
  const first = connect(t, resolver)
  await first.get('/a')

  dns.zone.set(SECURE, [record(secure.port)])
  const second = connect(t, resolver, { tls: new TlsFiles({ ca: authority.ca }) })
  const stop = new AbortController()
  for await (const changes of second.watch('/a/', 1n, stop.signal)) {
    t.strictSame(changes, [])
    stop.abort()
  }

  t.equal(first.endpoint, `http://localhost:${plain.port}`)
  t.equal(second.endpoint, `https://localhost:${secure.port}`)
})

t.test('the first call may be a write, and DNS is asked once', async t => {
  const { dns, resolver } = await openDns(t)
  dns.zone.set(PLAIN, [record(plain.port)])
  const registry = connect(t, resolver)

  await registry.commit([], [{ kind: 'put', key: '/a', value: '1' }])
  await registry.get('/a')
  await registry.list('/')

  t.strictSame(dns.asked, [SECURE, PLAIN])
})

t.test('priority comes before weight, and strange records are left out', async t => {
  const { dns, resolver } = await openDns(t)
  dns.zone.set(PLAIN, [
    record(1, 20, 100, 'last.test'),
    record(2, 10, 5, 'second.test'),
    record(3, 10, 50, 'first.test'),
    record(4, 0, 0, 'user@evil.test'),
    record(0, 0, 0, 'portless.test'),
  ])

  t.strictSame(await resolveEndpoints('example.com', resolver, true), [
    'http://first.test:3',
    'http://second.test:2',
    'http://last.test:1',
  ])
})

t.test('DNS is asked again when every endpoint that it named fails', async t => {
  const { dns, resolver } = await openDns(t)
  dns.zone.set(PLAIN, [record(await freePort()), record(await freePort())])
  const registry = connect(t, resolver)
  await t.rejects(registry.get('/a'), {
    code: 'ERR_REGISTRY_UNAVAILABLE',
    message:
      /^etcd at http:\/\/localhost:\d+ is not available: connection refused; etcd at http:\/\/localhost:\d+ is not available: connection refused$/,
  })

  dns.zone.set(PLAIN, [record(plain.port)])

  t.ok((await registry.get('/a')).revision > 0n)
  t.equal(registry.endpoint, `http://localhost:${plain.port}`)
})

t.test('endpoints that are known serve on while DNS is away', async t => {
  const { dns, resolver } = await openDns(t, 1500)
  dns.zone.set(PLAIN, [record(plain.port)])
  const registry = connect(t, resolver)
  await registry.get('/a')

  dns.silent = true
  await plain.kill()
  await t.rejects(registry.get('/a'), {
    message: /connection refused$|the connection broke$/,
  })
  await plain.start()

  let answer: unknown
  while (answer === undefined) answer = await registry.get('/a').catch(() => undefined)
  t.equal(registry.endpoint, `http://localhost:${plain.port}`)
})

t.test('what DNS lacks is said', async t => {
  const { dns, resolver } = await openDns(t, 1500)
  const registry = connect(t, resolver)
  const code = 'ERR_REGISTRY_UNAVAILABLE'

  await t.rejects(registry.get('/a'), {
    code,
    message:
      'cannot find etcd: example.com has no SRV records _etcd-client-ssl._tcp or _etcd-client._tcp',
  })
  dns.silent = true
  await t.rejects(registry.get('/a'), {
    code,
    message: `cannot find etcd: DNS does not answer for ${SECURE} (ETIMEOUT)`,
  })
  await t.rejects(registry.commit([], []), { code })
  dns.silent = false
  dns.zone.set(PLAIN, [record(plain.port)])
  t.ok((await registry.get('/a')).revision > 0n, 'and it is found when it is there')
})

t.test('nothing secret goes where DNS names plain HTTP only', async t => {
  const { dns, resolver } = await openDns(t)
  dns.zone.set(PLAIN, [record(plain.port)])
  let asked = 0
  const registry = connect(t, resolver, {
    isPlainSrvAllowed: false,
    login: {
      username: 'flannel',
      readPassword: () => {
        asked += 1
        return 'secret'
      },
    },
  })

  await t.rejects(registry.get('/a'), {
    message: /^cannot find etcd: example\.com has SRV records for plain HTTP only/,
  })
  t.equal(asked, 0)
})

t.test('an endpoint of its own beside the domain serves without DNS', async t => {
  const { dns, resolver } = await openDns(t, 1500)
  dns.silent = true
  const endpoints = ['srv://example.com', plain.endpoint]
  const registry = connect(t, resolver, { endpoints })

  t.ok((await registry.get('/a')).revision > 0n)
})
