/** Underlays as they are: long packets, marks of congestion, loss, packets that overtake each other. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'
import { netstatCounter } from '../helpers/netstat.js'
import { Injector } from './injector.js'
import { DUAL, type Pair, type Side, openPair, reaches, passes } from './open-pair.js'
import { waitFor } from '../helpers/wait-for.js'

const UDP_LOAD = fileURLToPath(new URL('../../bench/path/udp-load.js', import.meta.url))

/** Sets rules for the underlay's packets of one host, in the place of those before. */
async function setRules(
  pair: Pair,
  side: Side,
  ...rules: readonly string[]
): Promise<void> {
  const chains = rules.map((rule, index) => `add chain ip rough c${index} ${rule}`)
  const script = [
    'add table ip rough',
    'delete table ip rough',
    'add table ip rough',
    ...chains,
  ]
  await pair.inside(side, 'nft', script.join('; '))
}

/** A counter of Linux: TcpExt TCPDeliveredCE. */
async function counterOf(
  pair: Pair,
  side: Side,
  group: string,
  name: string,
): Promise<number> {
  return netstatCounter(await pair.inside(side, 'cat', '/proc/net/netstat'), group, name)
}

t.test('an underlay of long packets carries long packets', async t => {
  const pair = await openPair(t, 'jumbo', DUAL, { underlayMtu: 9000 })
  const mtu = Number(pair.variables[0]?.get('FLANNEL_MTU'))
  t.equal(mtu, 8972)
  for (const family of [4, 6] as const) {
    await passes(pair, family)
    t.ok(await reaches(pair, family, mtu, ['-M', 'do']), 'a packet of the MTU')
    t.notOk(await reaches(pair, family, mtu + 1, ['-M', 'do']), 'and not of one more')
    t.ok(await reaches(pair, family, 20_000), 'in pieces')
    const rate = await pair.transfer(family)
    t.ok(rate > 10, `TCP: ${rate.toFixed(0)} Mbit/s`)
  }
  t.strictSame([(await pair.path(1)).drops, (await pair.path(2)).drops], [{}, {}])
})

const pair = await openPair(t, 'rough', DUAL)
for (const family of [4, 6] as const) await passes(pair, family)

t.test('TCP goes both ways at once, on one stream and on many', async t => {
  for (const flags of [['--reverse'], ['--parallel=8'], ['--bidir', '--parallel=4']]) {
    const rate = await pair.transfer(4, ...flags)
    t.ok(rate > 10, `${flags.join(' ')}: ${rate.toFixed(0)} Mbit/s`)
  }
})

t.test('a mark of congestion reaches TCP, and slows it down', async t => {
  for (const side of [1, 2] as const)
    await pair.inside(side, 'sysctl', '-qw', 'net.ipv4.tcp_ecn=1')
  const marked = (): Promise<number> => counterOf(pair, 1, 'TcpExt', 'TCPDeliveredCE')
  const before = await marked()
  await setRules(
    pair,
    1,
    '{ type filter hook output priority 0; }; add rule ip rough c0 udp dport 8285 ip ecn != not-ect numgen random mod 100 < 3 ip ecn set ce',
  )

  const rate = await pair.transfer(4)

  await setRules(pair, 1)
  const delivered = (await marked()) - before
  t.ok(
    delivered > 0,
    `${delivered} packets were told to have been marked, at ${rate.toFixed(0)} Mbit/s`,
  )
  t.notOk((await pair.path(2)).drops['congestion'], 'and none was dropped for it')
})

t.test('what cannot carry the mark is dropped, and counted', async t => {
  await setRules(
    pair,
    1,
    '{ type filter hook output priority 0; }; add rule ip rough c0 udp dport 8285 ip ecn set ce',
  )
  t.notOk(await reaches(pair, 4, 100, ['-W', '1']))
  await setRules(pair, 1)
  t.ok(await reaches(pair, 4, 100))
  const count = await waitFor(
    'it is counted',
    async () => (await pair.path(2)).drops['congestion'],
  )
  t.ok(count >= 1, `${count} packets`)
})

t.test('TCP lives through lost packets', async t => {
  await setRules(
    pair,
    2,
    '{ type filter hook input priority 0; }; add rule ip rough c0 udp dport 8285 numgen random mod 100 < 2 drop',
  )
  const rate = await pair.transfer(4)
  await setRules(pair, 2)
  t.ok(rate > 1, `${rate.toFixed(0)} Mbit/s`)
})

//   eth0 192.0.2.1 ─────────────── 192.0.2.2 eth0
//   eth1 198.51.100.1 ── slowly ── 198.51.100.2 eth1    every tenth packet
t.test('TCP lives through packets that overtake each other', async t => {
  const second = pair.namespaceOf(2)
  await pair.inside(
    1,
    'ip',
    'link',
    'add',
    'eth1',
    'type',
    'veth',
    'peer',
    'name',
    'eth1',
    'netns',
    second,
  )
  for (const side of [1, 2] as const) {
    await pair.inside(
      side,
      'ip',
      'address',
      'add',
      `198.51.100.${side}/24`,
      'dev',
      'eth1',
    )
    await pair.inside(side, 'ip', 'link', 'set', 'eth1', 'up')
    for (const name of ['all', 'eth1'])
      await pair.inside(side, 'sysctl', '-qw', `net.ipv4.conf.${name}.rp_filter=0`)
  }
  const slowly = 'tc qdisc add dev eth1 root tbf rate 200mbit burst 64kb latency 20ms'
  await pair.inside(1, ...slowly.split(' '))
  await pair.inside(
    1,
    ...'ip route add default via 198.51.100.2 dev eth1 table 7'.split(' '),
  )
  await pair.inside(1, ...'ip rule add fwmark 7 table 7'.split(' '))
  await setRules(
    pair,
    1,
    '{ type route hook output priority 0; }; add rule ip rough c0 udp dport 8285 numgen inc mod 10 == 0 meta mark set 7',
  )
  const before = await counterOf(pair, 2, 'TcpExt', 'TCPOFOQueue')

  const rate = await pair.transfer(4)

  await setRules(pair, 1)
  const overtaken = (await counterOf(pair, 2, 'TcpExt', 'TCPOFOQueue')) - before
  t.ok(overtaken > 0, `${overtaken} packets came before their time`)
  t.ok(rate > 1, `${rate.toFixed(0)} Mbit/s`)
  const { drops } = await pair.path(2)
  t.strictSame(Object.keys(drops), ['congestion'], 'from wherever it came, it was honest')
})

t.test('a flood from a sender that segments its datagrams arrives whole', async t => {
  const [source, destination] = [pair.addressOf(1, 4), pair.addressOf(2, 4)]
  // A sender that has to wait for a core for a second has not ended.
  const program = [process.execPath, UDP_LOAD, 'receive', destination, '4433', '3000']
  const command = ['--pdeathsig', 'KILL', '--', ...inside(pair.namespaceOf(2), program)]
  const receiver = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'inherit'] })
  const [ready] = (await once(receiver.stdout, 'data')) as [Buffer]
  t.match(String(ready), 'ready')
  const said = text(receiver.stdout)
  const sender = new Injector(t, pair.namespaceOf(1), source, destination, 4433)
  const before = await pair.path(1)
  // As QUIC does: up to 32 datagrams of one length, and a shorter one behind them.
  const runs = Array.from({ length: 100 }, (_, index) =>
    Array.from({ length: 1 + (index % 32) }, (_, place) =>
      Buffer.alloc(place === index % 32 && place > 0 ? 700 : 1200, index),
    ),
  )

  for (const run of runs) await sender.send(run, { asRun: true })

  const sent = runs.flat().length
  t.equal(Number((await said).trim()), sent, 'every datagram')
  const after = await pair.path(1)
  const cut = (after.traffic['cutPackets'] ?? 0) - (before.traffic['cutPackets'] ?? 0)
  t.ok(cut > 0, `${cut} super-packets`)
})
