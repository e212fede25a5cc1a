/** The role that `flannelctl etcd-role` prints, with the daemon's engine under it. */
import { execFileSync } from 'node:child_process'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { acquireLease } from '../../lib/subnet/acquire-lease.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { LeaseKeeper } from '../../lib/subnet/keep-lease.js'
import { listLastHolders } from '../../lib/subnet/last-holders.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { formatOrder, orderKey } from '../../lib/subnet/orders.js'
import { parseAddress } from '../../lib/subnet/prefix.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { etcdctl } from '../helpers/etcdctl.js'
import { silent } from '../helpers/log.js'
import { RealEtcd } from '../helpers/real-etcd.js'

const PROGRAM = fileURLToPath(new URL('../../cmd/flannelctl.js', import.meta.url))
const PREFIX = "/it's/network"
const CONFIG = '{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00::/48"}'

t.test('the printed role is all that a daemon needs, and no more', async t => {
  const etcd = await RealEtcd.open({ flags: ['--bcrypt-cost', '4'] })
  t.teardown(() => etcd.close())
  const passwordFile = join(t.testdir(), "root's password")
  writeFileSync(passwordFile, 'secret\n')
  for (const line of ['user add root:root', 'user grant-role root root'])
    etcdctlWithoutLogin(etcd, line.split(' '))
  etcdctlWithoutLogin(etcd, ['put', `${PREFIX}/config`, CONFIG])

  const flags = [`--etcd-prefix=${PREFIX}`, `--etcd-password-file=${passwordFile}`]
  runScript(etcd, flags)
  etcdctlWithoutLogin(etcd, ['auth', 'enable'])

  const registry = new EtcdRegistry({
    endpoints: [etcd.endpoint],
    login: { username: 'flannel', readPassword: () => 'secret' },
  })
  t.teardown(() => {
    registry.close()
  })
  const clock = systemClock(() => performance.now())
  const holder = {
    publicIp: parseAddress('192.0.2.1'),
    backendType: '',
    hostId: 'host-a',
  }
  const common = { registry, prefix: PREFIX, holder, ttlSeconds: 60, clock, log: silent }
  const held = await acquireLease({
    ...common,
    config: parseNetworkConfig(CONFIG),
    localAddresses: [],
    mayBeClone: false,
    settleMs: 0,
  })
  t.equal((await listLastHolders(registry, PREFIX)).length, 1, 'its mark is left')
  const { entry } = await registry.get(held.key)
  t.equal(entry?.leaseId, held.leaseId)

  const stop = new AbortController()
  const keeper = new LeaseKeeper({
    ...common,
    held: { ...held, provenAt: -60_000 },
    isDoubted: () => false,
    onHeld: () => {
      stop.abort()
    },
  })
  await keeper.run(stop.signal)
  t.equal(keeper.trouble, undefined, 'the lease is renewed')

  const key = orderKey(PREFIX, 'host-a')
  const value = formatOrder({ kind: 'move', state: 'open' })
  const order = await registry.commit([], [{ kind: 'put', key, value }])
  t.ok(order.succeeded, 'it answers orders')

  const refused = { code: 'ERR_REGISTRY_REFUSED' }
  for (const foreign of [`${PREFIX}/config`, '/else', `${PREFIX}-else/subnets/x`]) {
    const write = { kind: 'put', key: foreign, value: 'x' } as const
    await t.rejects(registry.commit([], [write]), refused, foreign)
  }
  await t.rejects(registry.get('/else'), refused)
  t.match(etcdctl(etcd, 'user get flannel'), 'Roles: flannel')
})

t.test('a role for one host is enough for it, and for nothing of another', async t => {
  const etcd = await RealEtcd.open({ flags: ['--bcrypt-cost', '4'] })
  t.teardown(() => etcd.close())
  const passwordFile = join(t.testdir(), 'password')
  writeFileSync(passwordFile, 'secret\n')
  const subnet = '10.5.9.0/24 and fd00:0:0:9::/64'
  const key = `${PREFIX}/subnets/10.5.9.0-24&fd00:0:0:9::-64`
  for (const line of ['user add root:root', 'user grant-role root root'])
    etcdctlWithoutLogin(etcd, line.split(' '))
  etcdctlWithoutLogin(etcd, ['put', `${PREFIX}/config`, CONFIG])
  const reserved = '{"PublicIP":"0.0.0.0","PublicIPv6":null,"HostID":"host-b"}'
  etcdctlWithoutLogin(etcd, ['put', key, reserved])
  runScript(etcd, [
    'host-b',
    `--etcd-prefix=${PREFIX}`,
    `--etcd-password-file=${passwordFile}`,
    `--subnet=${subnet}`,
    '--host=host-b',
  ])
  etcdctlWithoutLogin(etcd, ['auth', 'enable'])

  const registry = new EtcdRegistry({
    endpoints: [etcd.endpoint],
    login: { username: 'host-b', readPassword: () => 'secret' },
  })
  t.teardown(() => {
    registry.close()
  })
  const held = await acquireLease({
    registry,
    prefix: PREFIX,
    holder: { publicIp: parseAddress('192.0.2.2'), backendType: '', hostId: 'host-b' },
    ttlSeconds: 60,
    clock: systemClock(() => performance.now()),
    log: silent,
    config: parseNetworkConfig(CONFIG),
    localAddresses: [],
    mayBeClone: false,
    settleMs: 0,
  })
  t.equal(held.key, key)
  const { entry } = await registry.get(key)
  t.match(entry?.value, '192.0.2.2')
  t.equal(entry?.leaseId, undefined, 'it stays a reservation')

  for (const foreign of [
    `${PREFIX}/subnets/10.5.10.0-24`,
    `${PREFIX}/subnets/10.5.9.0-24`,
    orderKey(PREFIX, 'host-a'),
    `${PREFIX}/claims/v4/10.5.10.0-24`,
    `${PREFIX}/config`,
  ]) {
    const write = { kind: 'put', key: foreign, value: 'x' } as const
    await t.rejects(
      registry.commit([], [write]),
      { code: 'ERR_REGISTRY_REFUSED' },
      foreign,
    )
  }
})

/** Runs what `flannelctl etcd-role` prints. */
function runScript(etcd: RealEtcd, args: readonly string[]): void {
  const script = execFileSync(process.execPath, [PROGRAM, 'etcd-role', ...args], {
    encoding: 'utf8',
  })
  execFileSync('sh', ['-e'], {
    input: script,
    env: {
      PATH: process.env['PATH'],
      ...ETCDCTL_ENVIRONMENT,
      ETCDCTL_ENDPOINTS: etcd.endpoint,
    },
  })
}

function etcdctlWithoutLogin(etcd: RealEtcd, args: readonly string[]): void {
  execFileSync('etcdctl', [`--endpoints=${etcd.endpoint}`, ...args], {
    env: { PATH: process.env['PATH'], ...ETCDCTL_ENVIRONMENT },
    stdio: 'pipe',
  })
}
