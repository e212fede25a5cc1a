import t from 'tap'
import { parseNetworkConfig } from '../../../lib/subnet/network-config.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { formatSubnet } from '../../../lib/subnet/subnet-key.js'
import { LeaseWorld, TTL_SECONDS, keyOf, subnetOf } from '../../helpers/lease-host.js'
import { collectLog } from '../../helpers/log.js'

const OURS = '{"PublicIP":"1.1.1.1","PublicIPv6":null,"HostID":"host-a"}'
const TINY = { Network: '10.5.0.0/16', SubnetMin: '10.5.1.0', SubnetMax: '10.5.3.0' }

t.test('a new host gets a subnet of the network, on a lease', async t => {
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1')

  const held = await host.acquire()

  const entry = world.etcd.get(held.key)
  t.equal(entry?.value, OURS)
  t.equal(entry?.leaseId, held.leaseId)
  t.equal(world.etcd.timeToLive(held.leaseId!), TTL_SECONDS)
  t.equal(held.key, keyOf(formatSubnet(held.subnet).replace('/', '-')))
  t.equal(held.provenAt, world.clock.now())
})

t.test('a host finds its record by its id, wherever it lives now', async t => {
  const world = new LeaseWorld()
  const before = await world.host('host-a', '1.1.1.1').acquire()

  const after = await world.host('host-a', '9.9.9.9').acquire()

  t.equal(after.key, before.key)
  t.not(after.leaseId, before.leaseId)
  t.match(world.etcd.get(after.key), {
    leaseId: after.leaseId,
    value: '{"PublicIP":"9.9.9.9","PublicIPv6":null,"HostID":"host-a"}',
  })
  t.equal(world.names().length, 1)
})

t.test('a record of ours that somebody spoiled is written again', async t => {
  const world = new LeaseWorld()
  const made = await world.host('host-a', '1.1.1.1').acquire()
  const name = made.key.slice(made.key.lastIndexOf('/') + 1)
  world.put(name, '{', made.leaseId)

  const again = await world.host('host-a', '1.1.1.1').acquire({ made })

  t.equal(again.key, made.key)
  t.equal(world.value(name), OURS)
})

t.test('a restart writes nothing while the lease is good', async t => {
  const world = new LeaseWorld()
  const made = await world.host('host-a', '1.1.1.1').acquire()
  const begin = world.etcd.get(made.key)?.modRevision
  await world.clock.advance(3600_000)

  const again = await world.host('host-a', '1.1.1.1').acquire({ made })

  t.strictSame(again, { ...made, provenAt: world.clock.now() })
  t.equal(world.etcd.get(made.key)?.modRevision, begin, 'nobody hears of it')
  t.equal(world.etcd.timeToLive(again.leaseId!), TTL_SECONDS, 'and it is renewed')

  const longer = await world
    .host('host-a', '1.1.1.1')
    .acquire({ made, ttlSeconds: 2 * TTL_SECONDS })
  t.equal(world.etcd.timeToLive(longer.leaseId!), 2 * TTL_SECONDS, 'another lease time')
})

t.test(
  "a record with our address is ours: flannel's, or one from before our state was lost",
  async t => {
    for (const hostId of ['', ',"HostID":"old"']) {
      const { log, messages } = collectLog()
      const world = new LeaseWorld()
      const lease = world.etcd.grant(TTL_SECONDS)
      world.put('10.5.7.0-24', `{"PublicIP":"1.1.1.1","PublicIPv6":null${hostId}}`, lease)

      t.equal(await world.host('host-a', '1.1.1.1', log).acquireSubnet(), '10.5.7.0/24')

      t.equal(world.value('10.5.7.0-24'), OURS)
      t.match(messages, [/^taking over (the|a) record /])
    }
  },
)

t.test('the host id counts more than the address', async t => {
  const world = new LeaseWorld()
  const [a, b] = [world.etcd.grant(60), world.etcd.grant(60)]
  world.put('10.5.7.0-24', '{"PublicIP":"1.1.1.1","HostID":"host-b"}', b)
  world.put('10.5.8.0-24', '{"PublicIP":"2.2.2.2","HostID":"host-a"}', a)

  t.equal(await world.host('host-a', '1.1.1.1').acquireSubnet(), '10.5.8.0/24')
})

t.test('containers count more than a lease of ours from a backup', async t => {
  // host-b is the same machine: it found another that went by the id that it had.
  for (const hostId of ['host-a', 'host-b']) {
    const world = new LeaseWorld()
    const old = world.etcd.grant(TTL_SECONDS)
    world.put('10.5.8.0-24', '{"PublicIP":"1.1.1.1","HostID":"host-a"}', old)
    const previous = subnetOf('10.5.77.0/24')

    const host = world.host(hostId, '1.1.1.1')

    t.equal(await host.acquireSubnet({ previous }), '10.5.77.0/24', hostId)
  }
})

t.test('a machine that may be a copy asks whether the original is alive', async t => {
  const world = new LeaseWorld()
  const original = world.host('host-a', '1.1.1.1')
  const held = await original.acquire()
  const stop = new AbortController()
  const keeping = original.keeper(held).run(stop.signal)

  const copy = world.host('host-a', '2.2.2.2').start({ mayBeClone: true })
  await t.rejects(world.clock.until(copy), { code: 'ERR_HOST_CLONED' })
  t.match(world.etcd.get(held.key)?.value, '"1.1.1.1"')

  stop.abort()
  await keeping
  const heir = await world.host('host-a', '2.2.2.2').acquire({ mayBeClone: true })
  t.equal(heir.key, held.key, 'an id that nobody lives by any more')
})

t.test('a copy takes no reservation, which shows no sign of life', async t => {
  const world = new LeaseWorld()
  world.put('10.5.9.0-24', '{"PublicIP":"1.1.1.1","HostID":"host-a"}')

  const copy = world.host('host-a', '2.2.2.2').acquire({ mayBeClone: true })

  await t.rejects(copy, { code: 'ERR_HOST_CLONED' })
})

t.test('a host that is told to stop does not wait for a sign of life', async t => {
  const world = new LeaseWorld()
  await world.host('host-a', '1.1.1.1').acquire()
  const stop = new AbortController()
  const options = { mayBeClone: true, signal: stop.signal }
  const copy = world.host('host-a', '2.2.2.2').start(options)
  const rejects = t.rejects(copy, new Error('stop'))

  await world.clock.advance(10_000)
  stop.abort(new Error('stop'))

  await rejects
  t.equal(world.names().length, 1)
})

t.test('behind NAT the public address of a lease proves nothing', async t => {
  const world = new LeaseWorld()
  world.put('10.5.7.0-24', '{"PublicIP":"1.1.1.1"}', world.etcd.grant(60))
  const host = world.host('host-a', '1.1.1.1')

  const subnet = await host.acquireSubnet({
    localAddresses: [parseAddress('192.168.0.4')],
  })

  t.not(subnet, '10.5.7.0/24')
})

t.test('the subnet that we held last is taken if it is free', async t => {
  const world = new LeaseWorld()
  const previous = subnetOf('10.5.77.0/24')

  t.equal(await world.host('a', '1.1.1.1').acquireSubnet({ previous }), '10.5.77.0/24')
  t.not(await world.host('b', '2.2.2.2').acquireSubnet({ previous }), '10.5.77.0/24')
})

t.test('a last subnet that does not fit the network is not taken', async t => {
  const world = new LeaseWorld(TINY)
  const host = world.host('a', '1.1.1.1')

  for (const text of ['10.5.4.0/24', '10.6.1.0/24', '10.5.1.0/25', 'fd00::/64']) {
    const subnet = await host.acquireSubnet({ previous: subnetOf(text) })
    t.match(subnet, /^10\.5\.[123]\.0\/24$/, text)
    world.etcd.wipe()
    world.putConfig()
  }
})

t.test('a host without any state comes back to its subnet when that is free', async t => {
  const world = new LeaseWorld()
  const before = await world.host('host-a', '1.1.1.1').acquireSubnet()
  world.etcd.wipe()
  world.putConfig()

  t.equal(await world.host('host-a', '1.1.1.1').acquireSubnet(), before)
})

t.test('after a lost race another subnet is chosen', async t => {
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1')
  const wanted = await host.acquireSubnet()
  world.etcd.wipe()
  world.putConfig()
  const list = host.registry.list.bind(host.registry)
  host.registry.list = async prefix => {
    host.registry.list = list
    const snapshot = await list(prefix)
    const rival = world.etcd.grant(60)
    world.put(wanted.replace('/', '-'), '{"PublicIP":"2.2.2.2"}', rival)
    return snapshot
  }

  const subnet = await host.acquireSubnet()

  t.not(subnet, wanted)
  t.equal(world.value(wanted.replace('/', '-')), '{"PublicIP":"2.2.2.2"}')
  t.ok(host.registry.calls.includes('revokeLease'), 'the lease for it is not left behind')
})

t.test('thirty hosts at once all get a subnet of their own', async t => {
  for (const previous of [undefined, subnetOf('10.5.5.0/24')]) {
    const world = new LeaseWorld({ Network: '10.5.0.0/19', SubnetLen: 24 })
    const hosts = Array.from({ length: 30 }, (_, index) =>
      world.host(`host-${index}`, `1.1.1.${index + 1}`),
    )

    const held = await world.clock.until(
      Promise.all(hosts.map(host => host.start(previous && { previous }))),
    )

    t.equal(new Set(held.map(({ key }) => key)).size, 30)
    t.equal(world.names().length, 30)
  }
})

t.test('when all are held, the last host hears so', async t => {
  const world = new LeaseWorld(TINY)
  const subnets = []
  for (const host of ['a', 'b', 'c']) {
    subnets.push(await world.host(host, `1.1.1.${subnets.length + 1}`).acquireSubnet())
  }
  t.strictSame(subnets.sort(), ['10.5.1.0/24', '10.5.2.0/24', '10.5.3.0/24'])

  const late = world.host('d', '1.1.1.9')
  await t.rejects(late.acquire(), {
    code: 'ERR_SUBNET_EXHAUSTED',
    message: 'out of subnets: none is free, 3 taken',
  })

  world.remove('10.5.2.0-24')
  t.equal(await late.acquireSubnet(), '10.5.2.0/24')
})

t.test('a malformed record neither stops a host nor is written over', async t => {
  const world = new LeaseWorld(TINY)
  world.put('10.5.1.0-24', '{')
  world.put('rubbish', 'x')
  for (const id of ['a', 'b'])
    await world.host(id, `1.1.1.${id === 'a' ? 1 : 2}`).acquire()

  t.strictSame(world.names(), ['10.5.1.0-24', '10.5.2.0-24', '10.5.3.0-24', 'rubbish'])
  t.equal(world.value('10.5.1.0-24'), '{')
  await t.rejects(world.host('c', '1.1.1.3').acquire(), {
    code: /ERR_SUBNET_(EXHAUSTED|TAKEN)/,
  })
})

t.test('a reservation is used, and stays without an end', async t => {
  const reservations: readonly [why: string, value: string][] = [
    ['for our host id', '{"PublicIP":"7.7.7.7","HostID":"host-a"}'],
    ['for an address of ours', '{"PublicIP":"192.168.0.4"}'],
    ['for our public address', '{"PublicIP":"1.1.1.1"}'],
  ]
  for (const [why, value] of reservations) {
    const world = new LeaseWorld()
    world.put('10.5.9.0-24', value)

    const held = await world.host('host-a', '1.1.1.1').acquire({
      localAddresses: [parseAddress('192.168.0.4')],
    })

    t.equal(formatSubnet(held.subnet), '10.5.9.0/24', why)
    t.equal('leaseId' in held, false)
    t.match(world.etcd.get(held.key), { value: OURS, leaseId: undefined })
    await world.clock.advance(3 * TTL_SECONDS * 1000)
    t.equal(world.value('10.5.9.0-24'), OURS)
  }
})

t.test('a reservation waits while containers live on the last subnet', async t => {
  const previous = subnetOf('10.5.77.0/24')
  const world = new LeaseWorld()
  world.put('10.5.9.0-24', OURS)

  const subnet = await world.host('host-a', '1.1.1.1').acquireSubnet({ previous })
  t.equal(subnet, '10.5.77.0/24', 'it is free')

  world.remove('10.5.77.0-24')
  world.put('10.5.77.0-24', '{"PublicIP":"8.8.8.8","HostID":"host-b"}')
  const other = await world.host('host-a', '1.1.1.1').acquireSubnet({ previous })
  t.equal(other, '10.5.9.0/24', 'another host has it')
})

t.test('a reservation for a shared public address goes to one host only', async t => {
  const world = new LeaseWorld()
  world.put('10.5.9.0-24', '{"PublicIP":"1.1.1.1"}')
  const behindNat = (id: string, address: string) =>
    world.host(id, '1.1.1.1').start({ localAddresses: [parseAddress(address)] })

  const held = await world.clock.until(
    Promise.all([behindNat('a', '192.168.0.4'), behindNat('b', '192.168.0.5')]),
  )

  const keys = held.map(({ key }) => key)
  t.equal(new Set(keys).size, 2)
  t.ok(keys.includes(keyOf('10.5.9.0-24')))
})

t.test('when the network changed, our lease moves and a reservation stays', async t => {
  const { log, messages } = collectLog()
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1', log)
  const old = await host.acquire()
  world.config = parseNetworkConfig('{"Network":"10.6.0.0/16"}')

  t.match(await host.acquireSubnet(), /^10\.6\./)
  t.equal(world.etcd.get(old.key), undefined)
  t.strictSame(messages, [
    'our subnet is not one of the network configuration any more; giving it back',
  ])

  const other = new LeaseWorld({ Network: '10.6.0.0/16' })
  other.put('10.5.9.0-24', OURS)
  t.match(await other.host('host-a', '1.1.1.1').acquireSubnet(), /^10\.6\./)
  t.equal(other.value('10.5.9.0-24'), OURS)
})

t.test(
  'a longer subnet length gives the host a part of its own old subnet back',
  async t => {
    const world = new LeaseWorld({
      ...TINY,
      SubnetMin: '10.5.1.0',
      SubnetMax: '10.5.1.0',
    })
    const host = world.host('host-a', '1.1.1.1')
    await host.acquire()
    world.config = parseNetworkConfig(
      '{"Network":"10.5.0.0/16","SubnetLen":25,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.128"}',
    )

    t.match(await host.acquireSubnet(), /^10\.5\.1\.(0|128)\/25$/)
  },
)

t.test('dual stack: no half is held twice', async t => {
  const world = new LeaseWorld({
    ...TINY,
    EnableIPv6: true,
    IPv6Network: 'fc00::/48',
    IPv6SubnetMax: 'fc00:0:0:3::',
  })
  const subnets = []
  for (const index of [1, 2, 3]) {
    const held = await world.host(`host-${index}`, `1.1.1.${index}`).acquire()
    subnets.push(held.subnet)
  }

  t.equal(new Set(subnets.map(({ 4: half }) => half?.network)).size, 3)
  t.equal(new Set(subnets.map(({ 6: half }) => half?.network)).size, 3)
  t.match(world.names()[0], /^10\.5\.1\.0-24&fc00:0:0:[123]::-64$/)
})

const BOTH = { Network: '10.5.0.0/16', EnableIPv6: true, IPv6Network: 'fc00::/48' }

t.test(
  'dual stack: a half that is claimed is not chosen, our own claims are no obstacle',
  async t => {
    const world = new LeaseWorld(BOTH)
    const previous = subnetOf('10.5.7.0/24', 'fc00:0:0:7::/64')
    const claim = (half: string, hostId: string): void => {
      const key = `/net/claims/${half}`
      world.etcd.commit([], [{ kind: 'put', key, value: hostId }])
    }
    claim('v4/10.5.7.0-24', 'host-b')
    claim('v6/fc00:0:0:7::-64', 'host-a')

    const { subnet } = await world.host('host-a', '1.1.1.1').acquire({ previous })

    t.not(formatSubnet(subnet).split(' and ')[0], '10.5.7.0/24')
    t.equal(formatSubnet(subnet).split(' and ')[1], 'fc00:0:0:7::/64')
  },
)

t.test('a commit whose answer was lost leaves one record, and it is ours', async t => {
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1')
  host.registry.failNext('commit', 'answer lost')

  const held = await host.acquire()

  t.equal(world.names().length, 1)
  t.equal(world.etcd.get(held.key)?.leaseId, held.leaseId)
})

t.test('when etcd is away or refuses, the caller hears which', async t => {
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1')
  host.registry.failNext('list', 'refused')
  await t.rejects(host.acquire(), { code: 'ERR_REGISTRY_REFUSED' })
  world.etcd.stop()
  await t.rejects(host.acquire(), { code: 'ERR_REGISTRY_UNAVAILABLE' })
  host.registry.partition()
  const started = world.clock.now()
  await t.rejects(host.acquire(), { code: 'ERR_REGISTRY_UNAVAILABLE' })
  t.equal(world.clock.now() - started, 5000)
})

t.test('a host that loses every race gives up for now', async t => {
  const world = new LeaseWorld()
  const host = world.host('host-a', '1.1.1.1')
  host.registry.commit = () => Promise.resolve({ succeeded: false, revision: 1n })

  await t.rejects(host.acquire(), {
    code: 'ERR_SUBNET_TAKEN',
    message: 'other hosts were faster 50 times while taking a subnet',
  })
})
