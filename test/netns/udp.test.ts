/**
 * The udp backend as operators meet it: three hosts, each a network namespace
 * with a flanneld and a container, one etcd between them. The tests run in this
 * order on one network, and each leaves it whole.
 */
import { appendFile, cp, readFile, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { LabNode } from '../../cmd/flannelctl/lab/host.js'
import type { PingOptions, PingResult } from '../../cmd/flannelctl/lab/ping.js'
import { measureTcp } from '../../cmd/flannelctl/lab/throughput.js'
import { underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { echoRequest, echoesSeen, sendDatagram } from './forged-packets.js'
import {
  isRunning,
  openTestLab,
  pathOf,
  startTraffic,
  stopTraffic,
  subnetOf,
} from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const SUBNETS = '/coreos.com/network/subnets'

/** The underlay's 1500 less an IPv4 and a UDP header. */
const MTU = 1472

const lab = await openTestLab(t, { name: 't-udp', hosts: 3 })
const [one, two, three] = [lab.host(1), lab.host(2), lab.host(3)]

/** Pings from every container to all the others, and returns what each missed. */
async function unreached(options: PingOptions): Promise<PingResult[]> {
  const addresses = lab.hosts.map(host => host.container.address)
  const results = await Promise.all(
    lab.hosts.map(host => host.container.ping(addresses, options)),
  )
  return results.flat().filter(({ sent, received }) => received < sent)
}

t.test('every container reaches every other', async t => {
  const missed = await unreached({ count: 3, intervalMs: 20 })

  t.same(missed, [])
})

t.test('a packet of exactly the MTU passes whole', async t => {
  const missed = await unreached({ packetBytes: MTU, dontFragment: true })

  t.same(missed, [])
})

t.test('a packet one byte longer is refused to its sender', async t => {
  const options = { packetBytes: MTU + 1, dontFragment: true }

  const [fromContainer] = await one.container.ping([two.container.address], options)
  const [fromHost] = await one.ping([two.container.address], options)

  t.match(fromContainer, { received: 0, errors: ['not sent: EMSGSIZE'] })
  t.match(fromHost, { received: 0, errors: ['not sent: EMSGSIZE'] })
})

t.test('a packet longer than the MTU that may be fragmented arrives', async t => {
  const missed = await unreached({ packetBytes: 4000 })

  t.same(missed, [])
})

t.test('containers talk TCP to each other', async t => {
  for (const from of lab.hosts) {
    for (const to of lab.hosts.filter(host => host !== from)) {
      const { tool, bitsPerSecond } = await measureTcp(from.container, to.container, 1)
      const rate = `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`
      t.ok(bitsPerSecond > 10e6, `${from.name} to ${to.name} by ${tool}: ${rate}`)
    }
  }
})

t.test('a host reaches a remote container, and the container the host', async t => {
  const [there] = await one.ping([two.container.address])
  const bridge = (await one.daemon.environment()).get('FLANNEL_SUBNET') ?? ''
  const [back] = await two.container.ping([bridge.replace(/\/\d+$/, '')])

  t.equal(there?.received, 1)
  t.equal(back?.received, 1)
})

t.test('a container hears that a subnet nobody leases is unreachable', async t => {
  const leased = new Set(await Promise.all(lab.hosts.map(host => subnetOf(host.daemon))))
  const free = Array.from({ length: 256 }, (_, index) => `10.5.${index}`).find(
    start => !leased.has(`${start}.0/24`),
  )

  const [result] = await one.container.ping([`${free}.2`])

  const router = (await subnetOf(one.daemon)).replace(/\/\d+$/, '')
  t.same(result?.errors, [`${router}: net unreachable`])
})

t.test("etcd holds flannel's keys and values, and nothing else", async t => {
  const hosts = await Promise.all(
    lab.hosts.map(async host => {
      const { lease } = await host.daemon.status()
      const hostId = lease?.record.HostID ?? ''
      t.match(hostId, /^[0-9a-f]{16}$/)
      return {
        key: `${SUBNETS}/${(await subnetOf(host.daemon)).replace('/', '-')}`,
        value: `{"PublicIP":"${host.address}","PublicIPv6":null,"HostID":"${hostId}"}`,
      }
    }),
  )

  const text = await lab.etcd.ctl('get', '--prefix', SUBNETS)
  const json = await lab.etcd.ctl('get', '--prefix', SUBNETS, '--write-out=json')

  const expected = hosts.map(({ key, value }) => `${key}\n${value}\n`).sort()
  t.equal(text, expected.join(''))
  // A lease is longer than a double is exact, so its digits are read as text.
  const leases = [...json.matchAll(/"lease":(\d+)/g)].map(([, id = '']) => id)
  t.equal(new Set(leases).size, lab.hosts.length, 'every key has a lease of its own')
  const id = BigInt(leases[0] ?? 0).toString(16)
  const lease = await lab.etcd.ctl('lease', 'timetolive', id)
  t.match(lease, /granted with TTL\(86400s\)/)
})

t.test("subnet.env is flannel's, byte for byte", async t => {
  const text = await readFile(one.daemon.subnetFile, 'utf8')
  const { mode } = await stat(one.daemon.subnetFile)

  t.equal(
    text,
    [
      'FLANNEL_NETWORK=10.5.0.0/16',
      `FLANNEL_SUBNET=${(await subnetOf(one.daemon)).replace('.0/', '.1/')}`,
      `FLANNEL_MTU=${MTU}`,
      'FLANNEL_IPMASQ=false\n',
    ].join('\n'),
  )
  t.equal(mode & 0o777, 0o644, 'readable for every container runtime')
})

t.test('a packet that its sender may not send is dropped and counted', async t => {
  const [source, forged] = [three.container.address, two.container.address]
  const destination = one.container.address
  const stranger = new LabNode(underlayNamespace(lab.name))
  const before = await echoesSeen(one.container)

  await sendDatagram(three, one, echoRequest(forged, destination))
  await sendDatagram(stranger, one, echoRequest(source, destination))
  await sendDatagram(three, one, echoRequest(source, destination))

  await waitFor(
    'the honest packet arrives',
    async () => (await echoesSeen(one.container)) > before,
  )
  const { drops, offenders } = await waitFor(
    'the others have been looked at',
    async () => {
      const path = await pathOf(one.daemon)
      return path.offenders.length === 2 && path
    },
  )
  t.equal(await echoesSeen(one.container), before + 1, 'and only the honest one')
  t.match(drops, { wrongSource: 1, unknownSender: 1 })
  // Whatever order they came in.
  const byReason = offenders.toSorted((a, b) =>
    String(a['reason']) < String(b['reason']) ? 1 : -1,
  )
  t.match(byReason, [
    { reason: 'wrongSource', outer: three.address, inner: forged, count: 1 },
    { reason: 'unknownSender', outer: '192.168.77.1', inner: source, count: 1 },
  ])
})

t.test('a host that joins is reachable from everywhere within seconds', async t => {
  const four = await lab.addHost()

  await waitFor('everybody reaches everybody', async () => {
    const missed = await unreached({ timeoutMs: 500 })
    return missed.length === 0
  })
  t.equal(lab.hosts.at(-1), four)
})

t.test('a daemon killed -9 comes back to its subnet, and no packet is lost', async t => {
  const [subnet, path] = [await subnetOf(two.daemon), await pathOf(two.daemon)]
  const traffic = await startTraffic(one, two)

  await two.daemon.kill('SIGKILL')
  await two.daemon.start()

  t.equal(await subnetOf(two.daemon), subnet)
  t.equal((await pathOf(two.daemon)).pid, path.pid, 'the packet path was taken over')
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `of ${sent} packets`)
})

/** The program as another build would have it: a file of its packet path ends otherwise. */
async function buildAnother(
  directory: string,
  file: string,
  ending: string,
): Promise<string> {
  const root = fileURLToPath(new URL('../../../', import.meta.url))
  for (const part of ['dist/cmd', 'dist/lib'])
    await cp(join(root, part), join(directory, part), { recursive: true })
  await cp(join(root, 'package.json'), join(directory, 'package.json'))
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  await appendFile(join(directory, 'dist/lib', file), ending)
  return join(directory, 'dist/cmd/flanneld.js')
}

t.test('a packet path of another build is replaced, and no packet is lost', async t => {
  const [subnet, path] = [await subnetOf(two.daemon), await pathOf(two.daemon)]
  const { program } = two.daemon
  const traffic = await startTraffic(one, two)

  await two.daemon.kill('SIGTERM')
  two.daemon.program = await buildAnother(
    t.testdir(),
    'encap/forward.js',
    '// another build\n',
  )
  await two.daemon.start()

  const successor = await pathOf(two.daemon)
  t.not(successor.pid, path.pid)
  await waitFor('the path before has ended', () => !isRunning(path.pid))
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `of ${sent} packets`)
  t.equal(await subnetOf(two.daemon), subnet)
  await two.daemon.kill('SIGTERM')
  two.daemon.program = program
  await two.daemon.start()
})

t.test('ten thousand packets, one a millisecond, live through every restart', async t => {
  const { program } = two.daemon
  const received = async (): Promise<number> =>
    (await pathOf(one.daemon)).traffic['receivedPackets'] ?? 0
  const before = await received()
  // A machine that stands still for seconds is not what is tested.
  for (const host of [one, two])
    await host.run(['ip', 'link', 'set', 'flannel0', 'txqueuelen', '10000'])
  const traffic = await startTraffic(one, two, 1)

  await two.daemon.kill('SIGTERM')
  await two.daemon.start()
  await two.daemon.kill('SIGKILL')
  await two.daemon.start()
  await two.daemon.kill('SIGTERM')
  const ending = '// another build\n'
  two.daemon.program = await buildAnother(t.testdir(), 'encap/forward.js', ending)
  await two.daemon.start()
  await two.daemon.kill('SIGTERM')
  two.daemon.program = program
  await two.daemon.start()

  await waitFor(
    'they have come',
    async () => (await received()) > before + 10_000,
    120_000,
  )
  const { sent, lost } = await stopTraffic(traffic)
  t.ok(sent >= 10_000, `${sent} packets`)
  t.equal(lost, 0)
})

t.test('a packet path that does not start leaves the one before running', async t => {
  const path = await pathOf(two.daemon)
  const { program } = two.daemon
  const traffic = await startTraffic(one, two)

  await two.daemon.kill('SIGTERM')
  two.daemon.program = await buildAnother(
    t.testdir(),
    'backend/udp/control-server.js',
    "\nthrow new Error('a broken build')\n",
  )
  await two.daemon.start()

  t.equal((await pathOf(two.daemon)).pid, path.pid)
  const log = await readFile(two.daemon.logFile, 'utf8')
  t.match(log, /the packet path of this build does not start; the one before goes on/)
  await two.daemon.kill('SIGTERM')
  two.daemon.program = program
  await two.daemon.start()
  t.equal((await pathOf(two.daemon)).pid, path.pid, 'and is found again')
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `of ${sent} packets`)
})

for (const [host, origin] of [
  [three, 'that the daemon started'],
  [two, 'that was taken over from an earlier daemon'],
] as const) {
  t.test(`a packet path ${origin} is replaced when it is killed -9`, async t => {
    const { pid } = await pathOf(host.daemon)
    const subnet = await subnetOf(host.daemon)
    const device = await host.run(['ip', 'link', 'show', 'flannel0'])
    const traffic = await startTraffic(one, host, 1, 1000)

    process.kill(pid, 'SIGKILL')

    await waitFor('the container is reachable again', async () => {
      const [result] = await one.container.ping([host.container.address], {
        timeoutMs: 200,
      })
      return result?.received === 1
    })
    const path = await pathOf(host.daemon)
    t.not(path.pid, pid)
    t.ok(isRunning(path.pid))
    t.equal(await subnetOf(host.daemon), subnet)
    t.equal(await host.run(['ip', 'link', 'show', 'flannel0']), device, 'on its device')
    const { lost } = await stopTraffic(traffic)
    t.comment(`a gap of about ${lost} ms`)
    t.same(await unreached({}), [])
  })
}

t.test('a packet path that hangs is replaced by a daemon that finds it', async t => {
  const { pid } = await pathOf(two.daemon)
  const subnet = await subnetOf(two.daemon)

  await two.daemon.kill('SIGKILL')
  process.kill(pid, 'SIGSTOP')
  await two.daemon.start()

  t.not((await pathOf(two.daemon)).pid, pid)
  await waitFor('it is gone, and reads no packets', () => !isRunning(pid))
  t.equal(await subnetOf(two.daemon), subnet)
  await waitFor('everybody reaches everybody', async () => {
    const missed = await unreached({ timeoutMs: 500 })
    return missed.length === 0
  })
})

t.test('SIGTERM ends the daemon with 0, and packets go on', async t => {
  const { pid } = await pathOf(two.daemon)
  const traffic = await startTraffic(one, two)

  const exit = await two.daemon.kill('SIGTERM')
  const missed = await unreached({})
  await two.daemon.start()

  t.same(exit, { exitCode: 0, signal: null })
  t.same(missed, [], 'without a daemon')
  t.equal((await pathOf(two.daemon)).pid, pid)
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `of ${sent} packets`)
})

t.test('SIGINT ends the daemon with 0, and its packet path and device', async t => {
  const { pid } = await pathOf(two.daemon)
  const subnet = await subnetOf(two.daemon)

  const exit = await two.daemon.kill('SIGINT')

  t.same(exit, { exitCode: 0, signal: null })
  await waitFor('the packet path ends', () => !isRunning(pid))
  t.notMatch(await two.run(['ip', 'route', 'show']), /flannel0/)
  const [result] = await two.container.ping([one.container.address])
  t.match(result?.errors, [/: net unreachable$/], 'containers are told')

  await two.daemon.start()
  await two.daemon.knows(lab.hosts.length - 1)
  t.equal(await subnetOf(two.daemon), subnet, 'the lease was kept for it')
  t.same(await unreached({}), [])
})

t.test('without etcd packets go on, the daemons say so, and they recover', async t => {
  const traffic = await startTraffic(one, two)

  await lab.etcd.stop()
  await waitFor('every daemon says that etcd is away', async () => {
    const states = await Promise.all(lab.hosts.map(host => host.daemon.status()))
    return states.every(({ etcdReachable }) => !etcdReachable)
  })
  t.same(await unreached({}), [])

  await lab.etcd.start()
  await waitFor('every daemon says that etcd is back', async () => {
    const states = await Promise.all(lab.hosts.map(host => host.daemon.status()))
    return states.every(({ etcdReachable }) => etcdReachable)
  })
  t.same(await unreached({}), [])
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `of ${sent} packets`)
})
