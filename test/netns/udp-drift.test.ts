/** What others do to the device of the udp backend is put right. */
import t from 'tap'
import { type Drift, expectRepair } from './drift.js'
import { DUAL, openPair, passes } from './open-pair.js'
import { waitFor } from '../helpers/wait-for.js'
import { isRunning } from './open-test-lab.js'

const pair = await openPair(t, 'drift', { ...DUAL, Backend: { Type: 'udp' } })

const run = (line: string): Promise<string> => pair.inside(1, ...line.split(' '))

/** What the kernel of host 1 has of ours, as text. */
async function state(): Promise<string> {
  const texts = await Promise.all(
    [
      'ip -4 route show proto 76',
      'ip -6 route show proto 76',
      'ip -brief address show dev flannel0',
      'cat /proc/sys/net/ipv4/conf/flannel0/accept_local',
    ].map(line => run(line).catch((error: unknown) => String(error))),
  )
  const link = await run('ip link show dev flannel0').catch(() => '')
  texts.push(/ mtu \d+ /.exec(link)?.[0] ?? '')
  // IPv6 knows a device's state a moment later than it has addresses.
  return texts.map(text => text.replace(/ linkdown| tentative/g, '')).join('--\n')
}

async function everybodyReaches(): Promise<void> {
  for (const family of [4, 6] as const) await passes(pair, family)
}

await everybodyReaches()
const right = await state()

const DRIFTS: readonly Drift[] = [
  ['the route deleted', () => run('ip route delete 10.5.0.0/16')],
  ['the route of IPv6 deleted', () => run('ip -6 route delete fd00:5::/48')],
  ['the route led elsewhere', () => run('ip route replace 10.5.0.0/16 dev eth0')],
  ['addresses flushed', () => run('ip address flush dev flannel0')],
  ['another MTU', () => run('ip link set flannel0 mtu 1300')],
  ['the device down', () => run('ip link set flannel0 down')],
  ['the device deleted', () => run('ip link delete flannel0')],
]

t.test('whatever others change is put right', async t => {
  for (const [index, drift] of DRIFTS.entries()) {
    // More than five repairs of one object in a minute are a rival's work; a new daemon begins to count anew.
    if (index % 4 === 3) await pair.restart(1, 'SIGTERM', [])
    await expectRepair(t, drift, state, right)
    await everybodyReaches()
  }
})

t.test('a device that is deleted while no daemon runs ends its path', async () => {
  const { pid } = await pair.path(1)
  await pair.stop(1, 'SIGKILL')
  await run('ip link delete flannel0')

  await waitFor('the path ends', () => !isRunning(pid))
  await pair.restart(1, 'SIGKILL', [])
  await waitFor('all is as it was', async () => (await state()) === right)
  await everybodyReaches()
})
