/**
 * Three hosts with containers whose packets the kernel carries: one that moves,
 * one of the old kind, a second network beside the first, and another backend
 * for all of them while they run.
 */
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import t from 'tap'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { ipInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { startPing } from '../../cmd/flannelctl/lab/ping.js'
import { measureTcp } from '../../cmd/flannelctl/lab/throughput.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { openTestLab, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const OTHER = '/other/network'

const lab = await openTestLab(t, {
  name: 't-cluster',
  hosts: 3,
  backend: { Type: 'vxlan' },
})
const hosts = [lab.host(1), lab.host(2), lab.host(3)]
const [one, two, three] = [lab.host(1), lab.host(2), lab.host(3)]
const subnetThree = await subnetOf(three.daemon)

async function everybodyReaches(): Promise<void> {
  await Promise.all(
    hosts.map(async from => {
      const others = hosts.filter(to => to !== from)
      const targets = others.map(to => to.container.address)
      await waitFor(`${from.name} reaches the others`, async () => {
        const results = await from.container.ping(targets, { timeoutMs: 500 })
        return results.every(({ received }) => received === 1)
      })
    }),
  )
}

const ip = (host: LabHost, line: string): Promise<string> =>
  host.run(['ip', ...line.split(' ')])

async function macOf(host: LabHost): Promise<string> {
  const line = await ip(host, '-brief link show dev flannel.1')
  return line.split(/\s+/)[2] ?? ''
}

t.test('every container reaches every other, up to the MTU', async t => {
  await everybodyReaches()
  t.equal(one.container.mtu, 1450)
  for (const [from, to] of [
    [one, two],
    [two, three],
    [three, one],
  ] as const) {
    const ping = ['ping', '-c', '1', '-W', '20', '-M', 'do', to.container.address]
    const fits = await from.container.run([...ping, '-s', String(1450 - 28)])
    t.match(fits, / 1 received/)
  }
  const { bitsPerSecond } = await measureTcp(two.container, three.container, 1)
  t.ok(bitsPerSecond > 1e7, `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`)
})

t.test('flannelctl knows the ways', async t => {
  const { exitCode, stdout } = await flannelctl(one, ['routes'])

  t.equal(exitCode, 0, stdout)
  t.equal(stdout.match(/ vxlan +flannel\.1 +10\.5\.\d+\.0 +ok$/gm)?.length, 2)
  await ip(one, 'link set flannel.1 down')
  await waitFor('it is repaired', async () =>
    (await ip(one, 'link show dev flannel.1')).includes('UP'),
  )
  await waitFor('and the ways are right', async () => {
    const again = await flannelctl(one, ['routes'])
    return again.exitCode === 0
  })
})

t.test('what keeps a host from being right is in its status', async t => {
  const trouble = async (): Promise<string> =>
    (await two.daemon.status()).troubles['backend'] ?? ''
  // In one go: the daemon puts back what is missing.
  await ipInside(two.namespace, [
    'link delete flannel.1',
    'link add flannel.1 type bridge',
  ])

  await waitFor('it says so', async () => (await trouble()).includes('there is a device'))
  const { exitCode, stdout } = await flannelctl(two, ['status'])
  t.equal(exitCode, 3)
  t.match(stdout, /^trouble +backend: there is a device flannel\.1 of kind bridge/m)
  await ip(two, 'link delete flannel.1')
  await waitFor('and that it is over', async () => (await trouble()) === '')
  await everybodyReaches()
})

t.test('a host returns with another MAC address and another address', async t => {
  const before = await macOf(three)
  await three.daemon.kill('SIGKILL')
  await ip(three, 'link delete flannel.1')
  await rm(join(dirname(three.daemon.subnetFile), 'state'), { recursive: true })
  await ip(three, 'address flush dev eth0')
  await ip(three, 'address add 192.168.77.99/24 dev eth0')

  // All that it knows of itself is its subnet file.
  await three.daemon.start()

  t.equal(await subnetOf(three.daemon), subnetThree)
  t.not(await macOf(three), before)
  await everybodyReaches()
  const fdb = await one.run(['bridge', 'fdb', 'show', 'dev', 'flannel.1'])
  t.match(fdb, `${await macOf(three)} dst 192.168.77.99`)
  t.notMatch(fdb, before, 'and nothing of what was')
})

t.test('and back to its address while it runs, with the MAC address it has', async t => {
  const before = await macOf(three)
  await ip(three, 'address delete 192.168.77.99/24 dev eth0')
  await ip(three, 'address add 192.168.77.13/24 dev eth0')
  const begin = performance.now()

  await waitFor('the others know', async () => {
    const fdb = await two.run(['bridge', 'fdb', 'show', 'dev', 'flannel.1'])
    return fdb.includes(`${before} dst 192.168.77.13`)
  })
  await everybodyReaches()
  t.pass(`another address: right after ${(performance.now() - begin).toFixed(0)} ms`)
  t.equal(await subnetOf(three.daemon), subnetThree)
  t.equal(await macOf(three), before)
})

t.test('a second daemon with a VNI of its own, on the same hosts', async t => {
  const config = { Network: '10.6.0.0/16', Backend: { Type: 'vxlan', VNI: 2 } }
  await lab.etcd.ctl('put', `${OTHER}/config`, JSON.stringify(config))
  const others = [one, two].map(host =>
    host.openDaemon({ etcdPrefix: OTHER, subnetFile: 'other.env' }),
  )
  const addresses: string[] = []
  for (const [index, daemon] of others.entries()) {
    await daemon.start()
    const address = (await daemon.environment()).get('FLANNEL_SUBNET') ?? ''
    await ip([one, two][index]!, `address add ${address} dev lo`)
    addresses.push(address.replace(/\/.*/, ''))
  }

  const [first = '', second = ''] = addresses
  await waitFor('it is reached', async () => {
    const ping = ['ping', '-c', '1', '-W', '1', '-I', first, second]
    return await one.run(ping).then(
      () => true,
      () => false,
    )
  })
  await everybodyReaches()
  const routes = await ip(one, 'route show proto 76')
  t.equal(routes.match(/^10\.5\.\S+ via \S+ dev flannel\.1 /gm)?.length, 2)
  t.equal(routes.match(/^10\.6\.\S+ via \S+ dev flannel\.2 /gm)?.length, 1)

  for (const daemon of others) await daemon.kill('SIGTERM')
  const places = others[0]?.placeFlags ?? []
  const cleaned = await flannelctl(one, ['cleanup', ...places])
  t.match(cleaned.stdout, /removed the device flannel\.2/)
  t.notMatch(cleaned.stdout, /flannel\.1\b/)
  t.equal((await ip(one, 'route show proto 76')).match(/dev flannel\.1 /g)?.length, 2)
  const alsoPlaces = others[1]?.placeFlags ?? []
  t.equal((await flannelctl(two, ['cleanup', ...alsoPlaces])).exitCode, 0)
  await everybodyReaches()
})

t.test('a second daemon with the same VNI is refused, by name', async t => {
  const config = { Network: '10.6.0.0/16', Backend: { Type: 'vxlan' } }
  await lab.etcd.ctl('put', `${OTHER}/config`, JSON.stringify(config))
  const other = two.openDaemon({ etcdPrefix: OTHER, subnetFile: 'other.env' })

  const failure = await other.start().then(
    () => '',
    (error: unknown) => String(error),
  )

  t.match(failure, /the device flannel\.1 is that of flanneld:\S+; set another VNI/)
  await everybodyReaches()
})

t.test('a host of the old kind: what flannel does, done by hand', async t => {
  await three.daemon.kill('SIGTERM')
  t.equal((await flannelctl(three, ['cleanup'])).exitCode, 0)
  const mac = '9a:00:00:00:00:03'
  const base = subnetThree.replace(/\/.*/, '')
  // As flannel's vxlan backend sets it up, and writes its record.
  await ip(
    three,
    `link add flannel.1 address ${mac} type vxlan id 1 dev eth0 local ${three.address} dstport 8472 nolearning`,
  )
  await ip(three, `address add ${base}/32 dev flannel.1`)
  await ip(three, 'link set flannel.1 mtu 1450 up')
  const granted = await lab.etcd.ctl('lease', 'grant', '3600')
  const [, lease = ''] = /lease (\w+) granted/.exec(granted) ?? []
  const record = `{"PublicIP":"${three.address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${mac}"}}`
  const key = `/coreos.com/network/subnets/${subnetThree.replace('/', '-')}`
  await lab.etcd.ctl('put', `--lease=${lease}`, key, record)
  for (const host of [one, two]) {
    const text = await lab.etcd.ctl(
      'get',
      '--print-value-only',
      `/coreos.com/network/subnets/${(await subnetOf(host.daemon)).replace('/', '-')}`,
    )
    const read = JSON.parse(text) as {
      PublicIP: string
      BackendData: { VtepMAC: string }
    }
    const subnet = await subnetOf(host.daemon)
    const gateway = subnet.replace(/\/.*/, '')
    const { VtepMAC } = read.BackendData
    await ip(
      three,
      `neigh replace ${gateway} lladdr ${VtepMAC} dev flannel.1 nud permanent`,
    )
    const entry = ['fdb', 'replace', VtepMAC, 'dev', 'flannel.1', 'dst', read.PublicIP]
    await three.run(['bridge', ...entry, 'self', 'permanent'])
    await ip(three, `route replace ${subnet} via ${gateway} dev flannel.1 onlink`)
  }

  await everybodyReaches()
  const { bitsPerSecond } = await measureTcp(one.container, three.container, 1)
  t.ok(bitsPerSecond > 1e7, `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`)

  await lab.etcd.ctl('lease', 'revoke', lease)
  await waitFor('a host that is gone leaves nothing behind', async () => {
    const fdb = await one.run(['bridge', 'fdb', 'show', 'dev', 'flannel.1'])
    const routes = await ip(one, 'route show proto 76')
    return !fdb.includes(mac) && !routes.includes(base)
  })
  await ip(three, 'link delete flannel.1')
  await three.daemon.start()
  t.equal(await subnetOf(three.daemon), subnetThree)
  await everybodyReaches()
})

for (const backend of [{ Type: 'host-gw' }, { Type: 'vxlan', VNI: 9 }])
  t.test(`to ${JSON.stringify(backend)} by config apply`, async t => {
    const traffic = startPing(one.container.namespace, [two.container.address], {
      count: 60_000,
      intervalMs: 1,
      timeoutMs: 1000,
    })
    const config = JSON.stringify({ Network: lab.network, Backend: backend })
    t.match(await flannelctl(one, ['config', 'set', config]), { exitCode: 0 })

    for (const host of hosts)
      await waitFor(
        `${host.name} takes it`,
        async () => (await flannelctl(host, ['config', 'apply'])).exitCode === 0,
      )

    for (const host of hosts)
      await waitFor('it is taken up', async () => {
        const { backend: now, phase } = await host.daemon.status()
        return phase === 'ready' && now?.type === backend.Type
      })
    await everybodyReaches()
    for (const host of hosts) {
      const device = { 'host-gw': '', vxlan: 'flannel.9' }[backend.Type]
      await waitFor(`${host.name} has no other device`, async () => {
        const links = await ip(host, '-brief link show')
        return (links.match(/^flannel\S*/gm) ?? []).join(' ') === device
      })
    }
    const [result] = await traffic.stop()
    t.pass(
      `${(result?.sent ?? 0) - (result?.received ?? 0)} of ${result?.sent ?? 0} packets lost`,
    )
  })
