/**
 * Two networks on the same hosts, each with an etcd prefix, a port, a subnet
 * file and a daemon of its own, as flannel's users run them:
 *
 *   /coreos.com/network   10.5.0.0/16   port 8285   subnet.env   containers
 *   /other/network        10.6.0.0/16   port 8286   other.env    other0
 */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import type { LabDaemon } from '../../cmd/flannelctl/lab/daemon.js'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { echoRequest, echoesSeen, sendDatagram } from './forged-packets.js'
import { openTestLab, pathOf, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const OTHER_PORT = 8286

const lab = await openTestLab(t, { name: 't-two', hosts: 2 })
const [one, two] = [lab.host(1), lab.host(2)]
let otherOne: Other
let otherTwo: Other

interface Other {
  readonly daemon: LabDaemon
  /** Of other0, which stands for a bridge with containers. */
  readonly address: string
}

/** Starts the second daemon of a host and gives its subnet to a device. */
async function joinOther(host: LabHost): Promise<Other> {
  const daemon = host.openDaemon({
    etcdPrefix: '/other/network',
    subnetFile: 'other.env',
  })
  await daemon.start()
  const subnet = (await daemon.environment()).get('FLANNEL_SUBNET') ?? ''
  await host.run(['ip', 'link', 'add', 'other0', 'type', 'bridge'])
  await host.run(['ip', 'address', 'add', subnet, 'dev', 'other0'])
  await host.run(['ip', 'link', 'set', 'other0', 'up'])
  return { daemon, address: subnet.replace(/\/\d+$/, '') }
}

t.test('a second daemon starts beside the first', async t => {
  const config = { Network: '10.6.0.0/16', Backend: { Type: 'udp', Port: OTHER_PORT } }
  await lab.etcd.ctl('put', '/other/network/config', JSON.stringify(config))

  ;[otherOne, otherTwo] = await Promise.all([joinOther(one), joinOther(two)])

  for (const { daemon } of [otherOne, otherTwo]) await daemon.knows(1)
  t.match(await subnetOf(otherOne.daemon), /^10\.6\./)
  t.match(await subnetOf(one.daemon), /^10\.5\./, 'which has its own still')
})

t.test('each network is reachable', async t => {
  const [containers] = await one.container.ping([two.container.address])
  const [other] = await one.ping([otherTwo.address])
  const [back] = await two.ping([otherOne.address])

  t.equal(containers?.received, 1)
  t.equal(other?.received, 1)
  t.equal(back?.received, 1)
})

t.test('each network has a subnet file and a device of its own', async t => {
  const first = await readFile(one.daemon.subnetFile, 'utf8')
  const second = await readFile(otherOne.daemon.subnetFile, 'utf8')
  const routes = await one.run(['ip', 'route', 'show', 'proto', '76'])

  t.match(first, 'FLANNEL_NETWORK=10.5.0.0/16')
  t.match(second, 'FLANNEL_NETWORK=10.6.0.0/16')
  t.match(routes, /^10\.5\.0\.0\/16 dev flannel0/m)
  t.match(routes, /^10\.6\.0\.0\/16 dev flannel1/m)
})

t.test('a ping forced out of the device of the wrong network fails', async t => {
  const route = [`${otherTwo.address}/32`, 'dev', 'flannel0']

  await one.run(['ip', 'route', 'add', ...route])
  const [forced] = await one.ping([otherTwo.address])
  await one.run(['ip', 'route', 'delete', ...route])

  t.equal(forced?.received, 0)
  t.match(forced?.errors, [/: net unreachable$/])
})

t.test('a container does not get into the other network through its host', async t => {
  const before = (await pathOf(otherTwo.daemon)).drops['wrongSource'] ?? 0

  const [result] = await one.container.ping([otherTwo.address], { timeoutMs: 300 })

  t.equal(result?.received, 0)
  await waitFor('it is dropped by the host that it went to', async () => {
    const { drops } = await pathOf(otherTwo.daemon)
    return drops['wrongSource'] === before + 1
  })
})

t.test('forged packets do not cross from one network to the other', async t => {
  const [first, second] = [one.container.address, otherOne.address]
  const [firstSource, secondSource] = [two.container.address, otherTwo.address]
  const before = await Promise.all([echoesSeen(one), echoesSeen(one.container)])
  const drops = async (): Promise<number[]> => {
    const paths = await Promise.all([pathOf(one.daemon), pathOf(otherOne.daemon)])
    return paths.map(path => Object.values(path.drops).reduce((sum, n) => sum + n, 0))
  }
  const [droppedFirst = 0, droppedSecond = 0] = await drops()

  for (const [source, destination, port] of [
    [secondSource, second, 8285],
    [firstSource, second, 8285],
    [secondSource, first, 8285],
    [firstSource, first, OTHER_PORT],
    [secondSource, first, OTHER_PORT],
  ] as const) {
    await sendDatagram(two, one, echoRequest(source, destination), port)
  }

  await waitFor('all five are dropped', async () => {
    const [nowFirst = 0, nowSecond = 0] = await drops()
    return nowFirst === droppedFirst + 3 && nowSecond === droppedSecond + 2
  })
  t.same(await Promise.all([echoesSeen(one), echoesSeen(one.container)]), before)
})

t.test('one network ends and the other goes on', async t => {
  const subnet = await subnetOf(one.daemon)

  await otherOne.daemon.kill('SIGINT')

  const [gone] = await two.ping([otherOne.address], { timeoutMs: 300 })
  const [stays] = await two.container.ping([one.container.address])
  t.equal(gone?.received, 0)
  t.equal(stays?.received, 1)
  t.equal(await subnetOf(one.daemon), subnet)
  await waitFor(
    'its device is gone',
    async () => !(await one.run(['ip', 'route', 'show'])).includes('flannel1'),
  )

  await otherOne.daemon.start()
  await otherOne.daemon.knows(1)
  const [again] = await two.ping([otherOne.address])
  t.equal(again?.received, 1)
})
