/** The packet path between two kernels, with IPv4 and IPv6 inside and outside. */
import t from 'tap'
import { DUAL, type Side, openPair, reaches, passes } from './open-pair.js'

t.test('packets of both families travel in IPv4', async t => {
  const pair = await openPair(t, 'dual', DUAL)
  const mtu = Number(pair.variables[0]?.get('FLANNEL_MTU'))
  t.equal(mtu, 1472)
  for (const family of [4, 6] as const) {
    await passes(pair, family)
    t.ok(await reaches(pair, family, mtu, ['-M', 'do']), 'a packet of the MTU')
    t.notOk(await reaches(pair, family, mtu + 1, ['-M', 'do']), 'and not of one more')
    t.ok(await reaches(pair, family, 4000), 'in pieces')
  }

  await t.test('TCP goes in super-packets, and batching engages', async t => {
    for (const family of [4, 6] as const) {
      const before = [await pair.path(1), await pair.path(2)] as const
      const rate = await pair.transfer(family)
      const after = [await pair.path(1), await pair.path(2)] as const
      const grown = (side: Side, counter: string): number =>
        (after[side - 1]?.traffic[counter] ?? 0) -
        (before[side - 1]?.traffic[counter] ?? 0)
      t.comment(`IPv${family}: ${rate.toFixed(0)} Mbit/s`)
      const perSend = grown(1, 'sentPackets') / grown(1, 'sendCalls')
      const perWrite = grown(2, 'receivedPackets') / grown(2, 'tunWrites')
      t.ok(grown(1, 'cutPackets') > 100, `${grown(1, 'cutPackets')} super-packets cut`)
      t.ok(perSend > 5, `${perSend.toFixed(1)} packets with each send`)
      t.ok(perWrite > 3, `${perWrite.toFixed(1)} packets with each write`)
      t.equal(grown(1, 'gsoFallbacks'), 0)
    }
    t.strictSame([(await pair.path(1)).drops, (await pair.path(2)).drops], [{}, {}])
  })

  await t.test('small datagrams go many at a time', async t => {
    const before = await pair.path(1)
    await pair.transfer(4, '--udp', '--bitrate=0', '--length=64')
    const { traffic } = await pair.path(1)
    const sent = (traffic['sentPackets'] ?? 0) - (before.traffic['sentPackets'] ?? 0)
    const calls = (traffic['sendCalls'] ?? 0) - (before.traffic['sendCalls'] ?? 0)
    t.ok(sent / calls > 2, `${(sent / calls).toFixed(1)} packets with each send`)
  })

  await t.test('a sender hears that the host of its peer cannot be reached', async t => {
    const route = ['unreachable', '192.0.2.2/32']
    await pair.inside(1, 'ip', 'route', 'add', ...route)
    for (const [family, says] of [
      [4, /Destination Host Unreachable/],
      [6, /Destination unreachable: Address unreachable/],
    ] as const) {
      const [from, to] = [pair.addressOf(1, family), pair.addressOf(2, family)]
      const command = ['ping', '-c', '1', '-W', '20', '-I', from, to]
      const refusal = await pair.inside(1, ...command).catch((error: unknown) => error)
      t.match(refusal, { stdout: says }, `IPv${family}`)
    }
    await pair.inside(1, 'ip', 'route', 'delete', ...route)
    const { drops } = await pair.path(1)
    t.ok((drops['sendFailed'] ?? 0) >= 2, JSON.stringify(drops))
    t.ok(await reaches(pair, 4, 100), 'and again once it can')
  })

  await t.test(
    'a way that takes less than it should is gone without UDP_SEGMENT',
    async t => {
      await pair.inside(
        1,
        'ip',
        'route',
        'add',
        '192.0.2.2/32',
        'dev',
        'eth0',
        'mtu',
        '1300',
      )
      const rate = await pair.transfer(4)
      t.comment(`${rate.toFixed(0)} Mbit/s`)
      t.ok(rate > 1, 'TCP goes on')
      const { traffic } = await pair.path(1)
      t.ok((traffic['gsoFallbacks'] ?? 0) > 0)
      t.notOk(
        await reaches(pair, 4, 1400, ['-M', 'do']),
        'a sender of long packets is told',
      )
      t.ok(await reaches(pair, 4, 1400, ['-M', 'dont']), 'what may be cut passes')
    },
  )
})

t.test('a network of IPv6 alone travels in IPv6', async t => {
  const { IPv6Network } = DUAL
  const config = { EnableIPv4: false, EnableIPv6: true, IPv6Network }
  const pair = await openPair(t, 'six', config)
  const mtu = Number(pair.variables[0]?.get('FLANNEL_MTU'))
  t.equal(mtu, 1452)
  await passes(pair, 6)
  t.ok(await reaches(pair, 6, mtu, ['-M', 'do']), 'a packet of the MTU')
  const rate = await pair.transfer(6)
  t.comment(`${rate.toFixed(0)} Mbit/s`)
  const { traffic, drops } = await pair.path(1)
  t.ok((traffic['cutPackets'] ?? 0) > 100)
  t.strictSame(drops, {})
})
