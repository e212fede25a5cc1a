import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { enableLogin, etcdctl } from '../helpers/etcdctl.js'
import { Follower } from '../helpers/follower.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { openTcpProxy } from '../helpers/tcp-proxy.js'
import { waitFor } from '../helpers/wait-for.js'

const TOKEN_TTL_SECONDS = 2

const etcd = await RealEtcd.open({
  flags: ['--bcrypt-cost', '4', '--auth-token-ttl', String(TOKEN_TTL_SECONDS)],
})
t.teardown(() => etcd.close())
enableLogin(etcd)

/** A registry that logs in, closed with the test. The password may change meanwhile. */
function connect(
  t: Test,
  login?: { password: string },
  endpoint = etcd.endpoint,
): EtcdRegistry {
  const registry = new EtcdRegistry({
    endpoints: [endpoint],
    ...(login && {
      login: { username: 'flannel', readPassword: () => login.password },
    }),
  })
  t.teardown(() => {
    registry.close()
  })
  return registry
}

function put(registry: EtcdRegistry, value: string): Promise<unknown> {
  return registry.commit([], [{ kind: 'put', key: '/net/subnets/a', value }])
}

t.test('a user does what the role permits, and is told what it does not', async t => {
  const registry = connect(t, { password: 'secret' })
  const refused = {
    code: 'ERR_REGISTRY_REFUSED',
    message: `etcd at ${etcd.endpoint} refused: permission denied: user flannel has no role for this; "flannelctl etcd-role" prints what is needed`,
  }

  await put(registry, '1')
  t.equal((await registry.list('/net/')).entries.length, 1)
  t.equal(await registry.keepLeaseAlive(await registry.grantLease(60)), 60)
  const write = { kind: 'put', key: '/net/config', value: '1' } as const
  await t.rejects(registry.commit([], [write]), refused)
  await t.rejects(registry.get('/else'), refused)
  const watch = registry.watch('/else/', 1n, new AbortController().signal)
  await t.rejects(drain(watch), refused)
  // Whoever may read the key but not what lies below it hears so from the watch itself.
  etcdctl(etcd, 'role grant-permission flannel read /half/')
  const half = registry.watch('/half/', 1n, new AbortController().signal)
  await t.rejects(drain(half), refused)
})

t.test('a wrong password is refused in one line that does not hold it', async t => {
  const login = { password: 'wrong-password' }
  const registry = connect(t, login)

  const error = await registry.get('/net/a').catch((reason: unknown) => reason)
  const again = await registry.get('/net/a').catch((reason: unknown) => reason)

  t.match(error, {
    code: 'ERR_REGISTRY_REFUSED',
    message: `etcd at ${etcd.endpoint} refused: user flannel or the password is wrong; check --etcd-username and --etcd-password-file`,
  })
  t.equal((again as Error).message, (error as Error).message)
  t.notMatch(inspect(error, { depth: 10, showHidden: true }), 'wrong-password')
  login.password = 'secret'
  t.ok((await registry.get('/net/a')).revision > 0n, 'the right one is tried at once')
})

t.test('without a login etcd says what it wants', async t => {
  await t.rejects(connect(t).get('/net/a'), {
    code: 'ERR_REGISTRY_REFUSED',
    message: `etcd at ${etcd.endpoint} refused: it wants a user and password; set --etcd-username and --etcd-password-file`,
  })
})

t.test('a password that is changed meanwhile is read again', async t => {
  const login = { password: 'secret' }
  const registry = connect(t, login)
  t.teardown(() => {
    etcdctl(etcd, 'user passwd flannel --interactive=false', 'secret\n')
  })
  await put(registry, '1')

  etcdctl(etcd, 'user passwd flannel --interactive=false', 'newer\n')
  await t.rejects(put(registry, '2'), { message: /the password is wrong/ })
  login.password = 'newer'
  await put(registry, '3')

  t.equal((await registry.get('/net/subnets/a')).entry?.value, '3')
})

t.test('calls and watches go on when users and roles change', async t => {
  const registry = connect(t, { password: 'secret' })
  const follower = await Follower.open(registry, '/net/subnets/')
  t.teardown(() => follower.stop())
  await waitFor('the watch', () => follower.standings || undefined)

  for (const value of ['1', '2', '3']) {
    etcdctl(etcd, `role add role-${value}`)
    await put(registry, value)
    // Many at once find out that the login is old, and one new login serves them all.
    await Promise.all(Array.from({ length: 20 }, () => registry.get('/net/subnets/a')))
    etcdctl(etcd, `role delete role-${value}`)
    await Promise.all(Array.from({ length: 20 }, () => registry.get('/net/subnets/a')))
  }
  await waitFor('the changes', () => follower.values.length === 3)

  t.strictSame(follower.values, ['1', '2', '3'])
})

t.test('calls and watches survive the end of the token', async t => {
  const proxy = await openTcpProxy(etcd.port)
  t.teardown(() => proxy.close())
  const registry = connect(t, { password: 'secret' }, `http://127.0.0.1:${proxy.port}`)
  const follower = await Follower.open(registry, '/net/subnets/')
  t.teardown(() => follower.stop())
  await waitFor('the watch', () => follower.standings || undefined)

  // Every use of a token makes it last longer, so that nobody can ask whether it has ended.
  await delay(TOKEN_TTL_SECONDS * 1000 + 2000)
  await put(registry, 'after the end')
  await waitFor('the standing watch', () => follower.values[0])
  await delay(TOKEN_TTL_SECONDS * 1000 + 2000)
  proxy.cut()
  await waitFor('a second watch', () => follower.standings >= 2)
  await put(registry, 'after the cut')
  await waitFor('the second watch', () => follower.values[1])

  t.strictSame(follower.values, ['after the end', 'after the cut'])
})

t.test(
  'with a login nothing is lost either when etcd is killed and comes back',
  async t => {
    const registry = connect(t, { password: 'secret' })
    const follower = await Follower.open(registry, '/net/subnets/')
    t.teardown(() => follower.stop())
    await waitFor('the watch', () => follower.standings || undefined)
    await put(registry, 'before')

    await etcd.kill()
    await t.rejects(put(registry, 'never'), {
      message: /connection refused$|the connection broke$/,
    })
    await etcd.start()
    await waitFor('etcd', async () => {
      await put(registry, 'after')
      return true
    })
    await waitFor('the changes', () => follower.values.at(-1) === 'after')

    // Once more where the answer was late to a try that had succeeded.
    const changes = follower.values.filter(
      (value, index, all) => value !== all[index - 1],
    )
    t.strictSame(changes, ['before', 'after'])
    t.ok(follower.failures.every(({ code }) => code === 'ERR_REGISTRY_UNAVAILABLE'))
  },
)

t.test('a login works before etcd has users, and when it gets them', async t => {
  const young = await RealEtcd.open({ flags: ['--bcrypt-cost', '4'] })
  t.teardown(() => young.close())
  const registry = connect(t, { password: 'secret' }, young.endpoint)
  const follower = await Follower.open(registry, '/net/subnets/')
  t.teardown(() => follower.stop())

  await put(registry, 'without users')
  enableLogin(young)
  await put(registry, 'with users')
  await waitFor('the changes', () => follower.values.length === 2)

  t.strictSame(follower.values, ['without users', 'with users'])
})

async function drain(watch: AsyncIterable<unknown>): Promise<void> {
  const iterator = watch[Symbol.asyncIterator]()
  while (!(await iterator.next()).done);
}
