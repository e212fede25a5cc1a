/** host-gw, and from one backend type to another: nothing of the one before is left. */
import t from 'tap'
import { startPing } from '../../cmd/flannelctl/lab/ping.js'
import { expectRepair } from './drift.js'
import { DUAL, type Side, openPair, reaches, passes } from './open-pair.js'
import { waitFor } from '../helpers/wait-for.js'

const CONFIG = '/coreos.com/network/config'
const ETCD = '--endpoints=http://192.0.2.1:2379'

const pair = await openPair(t, 'switch', { ...DUAL, Backend: { Type: 'host-gw' } })

const run = (side: Side, line: string): Promise<string> =>
  pair.inside(side, ...line.split(' '))

async function everybodyReaches(): Promise<void> {
  for (const family of [4, 6] as const) await passes(pair, family)
}

await everybodyReaches()

/** Names of the devices and the ways of the routes that are ours. */
async function ours(side: Side): Promise<string[]> {
  const links = await run(side, 'ip -brief link show')
  const routes = await Promise.all(
    ['-4', '-6'].map(family => run(side, `ip ${family} route show proto 76`)),
  )
  const devices = links
    .split('\n')
    .map(line => line.split(/[\s@]/)[0] ?? '')
    .filter(name => name.startsWith('flannel'))
  const ways = routes
    .join('')
    .split('\n')
    .flatMap(line => / dev (\S+)/.exec(line)?.[1] ?? [])
  return [...devices.sort(), ...ways]
}

t.test('host-gw routes to the remote itself, at the full MTU', async t => {
  t.equal(pair.variables[0]?.get('FLANNEL_MTU'), '1500')
  t.strictSame(await ours(1), ['eth0', 'eth0'])
  const routes = await run(1, 'ip route show proto 76')
  t.match(routes, /^10\.5\.\d+\.0\/24 via 192\.0\.2\.2 dev eth0/)
  for (const family of [4, 6] as const) {
    t.ok(await reaches(pair, family, 1500, ['-M', 'do']), 'a packet of the MTU')
    const rate = await pair.transfer(family)
    t.ok(rate > 10, `IPv${family}: ${rate.toFixed(0)} Mbit/s`)
  }
})

t.test('host-gw puts back what others take away', async t => {
  const before = await run(1, 'ip route show proto 76')
  for (const [what, line] of [
    ['a route deleted', `ip route delete ${before.split(' ')[0] ?? ''}`],
    ['every route flushed', 'ip route flush proto 76'],
    [
      'a route led elsewhere',
      `ip route replace ${before.split(' ')[0] ?? ''} via 192.0.2.9`,
    ],
  ] as const) {
    const state = (): Promise<string> => run(1, 'ip route show proto 76')
    await expectRepair(t, [what, () => run(1, line)], state, before)
  }
})

const STEPS = [
  [{ Type: 'vxlan' }, ['flannel-v6.1', 'flannel.1', 'flannel.1', 'flannel-v6.1']],
  [
    { Type: 'vxlan', VNI: 7, Port: 4789, GBP: true, ChecksumOffload: false },
    ['flannel-v6.7', 'flannel.7', 'flannel.7', 'flannel-v6.7'],
  ],
  [{ Type: 'udp' }, ['flannel0', 'flannel0', 'flannel0']],
  [{ Type: 'vxlan', DirectRouting: true }, ['flannel-v6.1', 'flannel.1', 'eth0', 'eth0']],
  [{ Type: 'host-gw' }, ['eth0', 'eth0']],
] as const

for (const [backend, left] of STEPS) {
  t.test(`to ${JSON.stringify(backend)}`, async t => {
    const traffic = startPing(pair.namespaceOf(1), [pair.addressOf(2, 4)], {
      count: 60_000,
      intervalMs: 1,
      timeoutMs: 1000,
    })
    const config = JSON.stringify({ ...DUAL, Backend: backend })
    await pair.inside(1, 'etcdctl', ETCD, 'put', CONFIG, config)

    await Promise.all(([1, 2] as const).map(side => pair.restart(side, 'SIGTERM', [])))

    await everybodyReaches()
    for (const side of [1, 2] as const)
      await waitFor('only that is left', async () => {
        const found = await ours(side)
        return JSON.stringify(found) === JSON.stringify(left)
      }).catch(async () => {
        t.strictSame(await ours(side), left)
      })
    if ('DirectRouting' in backend)
      for (const family of [4, 6] as const) {
        t.ok(await reaches(pair, family, 1430, ['-M', 'do']), 'a packet of the MTU')
        const rate = await pair.transfer(family)
        t.ok(rate > 10, `IPv${family}: ${rate.toFixed(0)} Mbit/s`)
      }
    if ('ChecksumOffload' in backend) {
      const features = await run(1, 'ethtool -k flannel.7')
      t.match(features, /^\ttx-checksum-ip-generic: off$/m)
    }
    const [result] = await traffic.stop()
    t.pass(
      `${(result?.sent ?? 0) - (result?.received ?? 0)} of ${result?.sent ?? 0} packets lost`,
    )
  })
}

t.test('a quarrel is named, and left for a minute', async t => {
  const [route = ''] = (await run(1, 'ip route show proto 76')).split('\n')
  const destination = route.split(' ')[0] ?? ''
  const isBack = async (): Promise<boolean> =>
    (await run(1, 'ip route show proto 76')).includes(destination)

  const told = new RegExp(
    `somebody changes this again and again.*first="?route ${destination}"?`,
  )
  const isTold = async (): Promise<boolean> => told.test(await pair.log(1))

  let repairs = 0
  for (; repairs < 12; repairs++) {
    await run(1, `ip route delete ${destination}`)
    const what = await waitFor('it is back, or left', async () =>
      (await isTold()) ? 'left' : (await isBack()) && 'back',
    )
    if (what === 'left') break
  }

  t.equal(repairs, 5, 'put back five times')
  t.match(await pair.log(1), told)
})
