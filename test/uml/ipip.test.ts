/** Two hosts on ipip, in a kernel that has it: npm run test:uml. */
import t from 'tap'
import { expectRepair } from '../netns/drift.js'
import { type Side, openPair, reaches, passes } from '../netns/open-pair.js'
import { waitFor } from '../helpers/wait-for.js'

const ETCD = '--endpoints=http://192.0.2.1:2379'
const NETWORK = { Network: '10.5.0.0/16', SubnetMax: '10.5.239.0' }

// That kernel has no nftables for IP: test/netns/ipip-verification has the rules.
const FLAGS = ['--verify=off', '--iptables-forward-rules=false']

const pair = await openPair(
  t,
  'ipip',
  { ...NETWORK, Backend: { Type: 'ipip' } },
  { flags: FLAGS },
)

const run = (side: Side, line: string): Promise<string> =>
  pair.inside(side, ...line.split(' '))

t.test("packets pass, by flannel's device and routes", async t => {
  await passes(pair, 4)
  t.equal(pair.variables[0]?.get('FLANNEL_MTU'), '1480')
  t.ok(await reaches(pair, 4, 1480, ['-M', 'do']), 'a packet of the MTU')
  t.notOk(await reaches(pair, 4, 1481, ['-M', 'do']), 'and none that is larger')
  const rate = await pair.transfer(4)
  t.ok(rate > 1, `${rate.toFixed(0)} Mbit/s`)
  const subnet = pair.addressOf(2, 4).replace(/1$/, '0/24')
  t.match(
    await run(1, 'ip route show proto 76'),
    `${subnet} via 192.0.2.2 dev flannel.ipip onlink`,
  )
  t.match(
    await run(1, 'ip -d link show flannel.ipip'),
    /ipip (any )?remote any local 192\.0\.2\.1/,
  )
  t.match(
    await run(1, `etcdctl ${ETCD} get --prefix /coreos.com/network/subnets`),
    '"BackendType":"ipip"',
  )
})

t.test('what others change is put right', async t => {
  const state = async (): Promise<string> =>
    (await run(1, 'ip -brief address show dev flannel.ipip').catch(() => '')) +
    (await run(1, 'ip route show proto 76'))
  const right = await state()
  for (const [what, line] of [
    ['the route deleted', 'ip route flush proto 76'],
    ['the address deleted', 'ip address flush dev flannel.ipip'],
    ['the device down', 'ip link set flannel.ipip down'],
    ['the device deleted', 'ip link delete flannel.ipip'],
    ['another local address', 'ip link change flannel.ipip type ipip local 192.0.2.99'],
  ] as const)
    await expectRepair(t, [what, () => run(1, line)], state, right)
  await passes(pair, 4)
})

t.test('a tunnel of somebody else stays as it is', async () => {
  for (const [side, other] of [
    [1, 2],
    [2, 1],
  ] as const) {
    await run(
      side,
      `ip link add theirs type ipip local 192.0.2.${side} remote 192.0.2.${other}`,
    )
    await run(side, `ip address add 172.20.0.${side}/24 dev theirs`)
    await run(side, 'ip link set theirs up')
  }
  await waitFor('it carries packets', async () =>
    run(1, 'ping -c 1 -W 1 172.20.0.2').then(
      () => true,
      () => false,
    ),
  )
})

t.test('DirectRouting hands packets to remotes on the link', async () => {
  const config = { ...NETWORK, Backend: { Type: 'ipip', DirectRouting: true } }
  const put = ['put', '/coreos.com/network/config', JSON.stringify(config)]
  await pair.inside(1, 'etcdctl', ETCD, ...put)
  await Promise.all(([1, 2] as const).map(side => pair.restart(side, 'SIGTERM', FLAGS)))
  await passes(pair, 4)
  await waitFor('the route leads to the link', async () =>
    (await run(1, 'ip route show proto 76')).includes(' via 192.0.2.2 dev eth0'),
  )
})

t.test('cleanup leaves nothing', async t => {
  await pair.stop(1, 'SIGTERM')
  await pair.flannelctl(1, 'cleanup')
  t.equal(await run(1, 'ip route show proto 76'), '')
  t.notMatch(await run(1, 'ip -brief link'), 'flannel.ipip')
})
