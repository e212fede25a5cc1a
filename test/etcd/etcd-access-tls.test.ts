import { copyFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { TlsFiles, type TlsPaths } from '../../lib/subnet/tls-files.js'
import { Authority, type Pair } from '../helpers/certificates.js'
import { Follower } from '../helpers/follower.js'
import { collectLog } from '../helpers/log.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { openTcpProxy } from '../helpers/tcp-proxy.js'
import { waitFor } from '../helpers/wait-for.js'

const authority = new Authority()
const stranger = new Authority()
t.teardown(() => {
  authority.remove()
  stranger.remove()
})

const serverPair = authority.sign()
const [open, closed] = await Promise.all([
  RealEtcd.open({ tls: serverPair }),
  RealEtcd.open({
    tls: serverPair,
    flags: ['--client-cert-auth', '--trusted-ca-file', authority.ca],
  }),
])
t.teardown(() => Promise.all([open.close(), closed.close()]))

/** A registry of one endpoint, closed with the test. */
function connect(t: Test, endpoint: string, paths?: TlsPaths): EtcdRegistry {
  const registry = new EtcdRegistry({
    endpoints: [endpoint],
    ...(paths && { tls: new TlsFiles(paths) }),
  })
  t.teardown(() => {
    registry.close()
  })
  return registry
}

t.test('an authority alone is enough for TLS', async t => {
  const registry = connect(t, open.endpoint, { ca: authority.ca })

  await registry.commit([], [{ kind: 'put', key: '/a', value: '1' }])

  t.equal((await registry.get('/a')).entry?.value, '1')
})

t.test('a client certificate opens an etcd that asks for one', async t => {
  const registry = connect(t, closed.endpoint, { ca: authority.ca, ...authority.sign() })

  t.equal((await registry.get('/a')).entry, undefined)
  t.ok((await registry.keepLeaseAlive(await registry.grantLease(60))) > 0)
})

t.test('what is wrong with a certificate is said in one line', async t => {
  const expired = await RealEtcd.open({ tls: authority.sign({ days: -1 }) })
  const elsewhere = await RealEtcd.open({ tls: authority.sign({ names: 'DNS:db.test' }) })
  const plain = await RealEtcd.open()
  t.teardown(() => Promise.all([expired.close(), elsewhere.close(), plain.close()]))
  const ca = authority.ca
  const oldPair = authority.sign({ days: -1 })
  const cases: readonly (readonly [string, RealEtcd, TlsPaths | undefined, RegExp])[] = [
    [
      'wrong authority',
      open,
      { ca: stranger.ca },
      /not from an authority that we trust; check --etcd-cafile$/,
    ],
    [
      'no authority',
      open,
      undefined,
      /not from an authority that we trust; check --etcd-cafile$/,
    ],
    [
      'server expired',
      expired,
      { ca },
      /its certificate has expired, or this host's clock is wrong$/,
    ],
    ['other name', elsewhere, { ca }, /its certificate is not for 127\.0\.0\.1; /],
    [
      'no client certificate',
      closed,
      { ca },
      /it wants a client certificate; set --etcd-certfile and --etcd-keyfile$/,
    ],
    [
      'client expired',
      closed,
      { ca, ...oldPair },
      /our certificate in --etcd-certfile expired on 20\d\d-\d\d-\d\dT/,
    ],
    [
      'client of strangers',
      closed,
      { ca, ...stranger.sign() },
      /it does not accept our certificate; check --etcd-certfile/,
    ],
    ['no TLS there', plain, { ca }, /TLS.*; if it speaks none, http:\/\/ is right$/],
  ]

  for (const [name, etcd, paths, message] of cases) {
    const endpoint = `https://127.0.0.1:${etcd.port}`
    const registry = connect(t, endpoint, paths)
    const start = `etcd at ${endpoint} is not available: `
    for (const attempt of ['first', 'again']) {
      const error = await registry.get('/a').catch((reason: unknown) => reason)
      t.match(error, { code: 'ERR_REGISTRY_UNAVAILABLE', message }, `${name}, ${attempt}`)
      const text = (error as Error).message
      t.ok(text.startsWith(start) && !text.includes('\n'), text)
    }
  }
  const https = connect(t, `http://127.0.0.1:${open.port}`)
  await t.rejects(https.get('/a'), { message: /it hung up; if it speaks TLS, https/ })
})

t.test('renewed certificates are taken from disk, a half-written one never', async t => {
  const paths = usedPaths(t)
  const proxy = await openTcpProxy(closed.port)
  t.teardown(() => proxy.close())
  const { log, messages } = collectLog()
  install(authority.sign(), paths)
  const registry = new EtcdRegistry({
    endpoints: [`https://127.0.0.1:${proxy.port}`],
    tls: new TlsFiles(paths, log),
  })
  const follower = await Follower.open(registry, '/renewed/')
  const { values } = follower
  t.teardown(async () => {
    await follower.stop()
    registry.close()
  })
  const put = async (value: string): Promise<true> => {
    await registry.commit([], [{ kind: 'put', key: '/renewed/a', value }])
    return true
  }
  await put('before')

  truncateSync(paths.cert, 300)
  await put('half a certificate')
  rmSync(paths.cert)
  await put('no certificate')
  const next = authority.sign()
  copyFileSync(next.cert, paths.cert)
  await put('certificate without its key')
  copyFileSync(next.key, paths.key)
  await put('renewed')
  await waitFor('every write', () => values.length === 5)
  t.equal(messages.filter(text => text.includes('cannot be used')).length, 3)
  t.equal(messages.filter(text => text.includes('read again')).length, 1)

  // The old identity is worth nothing now: only with the new one a connection comes up.
  install(stranger.sign(), paths)
  await t.rejects(put('stranger'), { message: /does not accept our certificate/ })
  install(authority.sign(), paths)
  proxy.cut()
  await waitFor('a connection', () => put('after the cut').catch(() => undefined))
  await waitFor('the watch', () => values.at(-1) === 'after the cut')

  t.strictSame(values.slice(0, 5), [
    'before',
    'half a certificate',
    'no certificate',
    'certificate without its key',
    'renewed',
  ])
})

t.test('a renewed authority is taken from disk', async t => {
  const paths = usedPaths(t)
  copyFileSync(stranger.ca, paths.ca)
  const registry = connect(t, open.endpoint, { ca: paths.ca })
  await t.rejects(registry.get('/a'), { message: /not from an authority/ })

  copyFileSync(authority.ca, paths.ca)

  t.ok((await registry.get('/a')).revision > 0n)
})

t.test('files that cannot be used are refused at the start, by name', t => {
  const paths = usedPaths(t)
  install(authority.sign(), paths)
  writeFileSync(paths.ca, 'no certificate')
  t.throws(() => new TlsFiles(paths), {
    message: `${paths.ca} does not hold whole certificates in PEM`,
  })

  install(authority.sign(), paths)
  copyFileSync(stranger.sign().key, paths.key)
  t.throws(() => new TlsFiles(paths), {
    message: `the key in ${paths.key} does not belong to the certificate in ${paths.cert}, or cannot be read`,
  })

  rmSync(paths.key)
  t.throws(() => new TlsFiles(paths), { code: 'ENOENT', path: paths.key })
  t.end()
})

/** Names of files that a test may write. */
function usedPaths(t: Test): { ca: string } & Pair {
  const directory = t.testdir()
  return {
    ca: join(directory, 'ca.crt'),
    cert: join(directory, 'client.crt'),
    key: join(directory, 'client.key'),
  }
}

function install(pair: Pair, paths: { ca: string } & Pair): void {
  copyFileSync(authority.ca, paths.ca)
  copyFileSync(pair.cert, paths.cert)
  copyFileSync(pair.key, paths.key)
}
