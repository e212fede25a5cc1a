/**
 * flannelctl as an operator uses it on a host of a running network: two hosts
 * with daemons and a real etcd. In this order on one network.
 */
import { spawn } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { LabNode } from '../../cmd/flannelctl/lab/host.js'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'
import { ETCD_ENDPOINT, underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { echoRequest, sendDatagram } from './forged-packets.js'
import { openTestLab, startTraffic, stopTraffic, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const CONFIG = '/coreos.com/network/config'

const lab = await openTestLab(t, { name: 't-ctl', hosts: 2 })
const [one, two] = [lab.host(1), lab.host(2)]
const subnets = [await subnetOf(one.daemon), await subnetOf(two.daemon)] as const

async function json(
  host: typeof one,
  ...args: string[]
): Promise<Record<string, unknown>> {
  const { stdout } = await flannelctl(host, [...args, '--json'])
  return JSON.parse(stdout) as Record<string, unknown>
}

t.test('leases shows who holds what, and marks our own', async t => {
  const { exitCode, stdout } = await flannelctl(one, ['leases'])

  t.equal(exitCode, 0)
  const own = stdout.split('\n').find(line => line.includes(subnets[0]))
  t.match(own, /^\* +10\.5\.\d+\.0\/24 +\w{16} +192\.168\.77\.11 +udp +(23h5\dm|1d0h)$/)
  const other = stdout.split('\n').find(line => line.includes(subnets[1]))
  t.match(other, /^ +10\.5\.\d+\.0\/24 +\w{16} +192\.168\.77\.12 +udp/)

  const { leases } = await json(two, 'leases')
  const mine = (leases as { mine: boolean; subnet: string }[]).filter(({ mine }) => mine)
  t.match(mine, [{ subnet: subnets[1], kind: 'lease' }])
})

t.test('routes asks the kernel, and says when it has another way', async t => {
  const good = await flannelctl(one, ['routes'])
  t.equal(good.exitCode, 0)
  t.match(
    good.stdout,
    new RegExp(
      `^${subnets[1].replaceAll('.', '\\.')} .* 192\\.168\\.77\\.12 +udp +flannel0 +192\\.168\\.77\\.12:8285 +ok$`,
      'm',
    ),
  )

  await one.run(['ip', 'route', 'add', subnets[1], 'via', '192.168.77.1'])
  const bad = await flannelctl(one, ['routes'])
  await one.run(['ip', 'route', 'delete', subnets[1], 'via', '192.168.77.1'])

  t.equal(bad.exitCode, 3)
  t.match(bad.stdout, /via 192\.168\.77\.1$/m)
})

t.test('top counts what goes to and comes from each remote', async t => {
  const traffic = await startTraffic(one, two)
  // There are seconds in which a busy machine sends less, or what it could not before.
  const { exitCode, stderr, lines, rates } = await waitFor(
    'both are counted',
    async () => {
      const top = await flannelctl(one, ['top', '--json', '--count=2'])
      const lines = top.stdout.trim().split('\n')
      const { remotes } = JSON.parse(lines[1] ?? '') as {
        remotes: Record<string, number>[]
      }
      const [rates = {}] = remotes
      const { sentPacketsPerSecond: sent = 0, receivedPacketsPerSecond: received = 0 } =
        rates
      t.comment(`${sent} packets a second sent, ${received} received, of 200`)
      const isRight = sent > 20 && sent < 400 && received > 20 && received < 400
      return isRight && { ...top, lines, rates }
    },
  )
  await stopTraffic(traffic)
  t.same({ exitCode, stderr }, { exitCode: 0, stderr: '' })
  t.equal(lines.length, 2)
  t.match(rates, { subnet: subnets[1], publicIp: two.address })
  const { sentPacketsPerSecond: sent = 0, sentBytesPerSecond: bytes = 0 } = rates
  t.ok(bytes > 28 * sent - 30, 'and bytes')

  const text = await flannelctl(one, ['top', '--count=1'])
  t.match(text.stdout, /^SUBNET +PUBLIC IP +SENT +PACKETS +RECEIVED +PACKETS\nall /)
  t.notMatch(await one.run(['nft', 'list', 'tables']), 'flannel-top', 'nothing is left')
  t.equal((await flannelctl(one, ['top', '--interval=0'])).exitCode, 2)
})

t.test('peers say how long a lease lasts, and with --rate what flows', async t => {
  const traffic = await startTraffic(one, two)
  const { stdout, stderr } = await waitFor('a second in which it flows', async () => {
    const said = await flannelctl(one, ['peers', '--rate'])
    return / (23h5\dm|1d0h) +\d+ kbit\/s +\d+ kbit\/s$/m.test(said.stdout) && said
  })
  t.equal(stderr, '')
  t.match(stdout, /MTU +LEASE +SENT +RECEIVED$/m)
  await waitFor('and in JSON', async () => {
    const { peers } = await json(one, 'peers', '--rate')
    const [peer] = peers as Record<string, number>[]
    const { leaseExpiresInSeconds: left = 0, sentBytesPerSecond: sent = 0 } = peer ?? {}
    t.comment(`${left} s left, ${sent} bytes a second`)
    return left > 86_000 && left <= 86_400 && sent > 28 * 20
  })
  await stopTraffic(traffic)
})

t.test('capture writes what tcpdump reads', async t => {
  const directory = t.testdir()
  const dump = async (file: string): Promise<string[]> => {
    const text = await one.run(['tcpdump', '-n', '-q', '-r', file])
    return text.trim().split('\n')
  }
  const traffic = await startTraffic(one, two)
  const [a, b] = [one.container.address, two.container.address]
  const inner = join(directory, 'inner.pcapng')
  const flags = ['--count=20', '--host', b, '--protocol=icmp', '--json']
  const said = await flannelctl(one, ['capture', '--output', inner, ...flags])
  t.equal(said.stderr, '')
  t.same(JSON.parse(said.stdout), {
    file: inner,
    device: 'flannel0',
    packets: 20,
    missed: 0,
  })
  const lines = await dump(inner)
  t.equal(lines.length, 20)
  t.ok(
    lines.every(
      line => line.includes(`IP ${a} > ${b}`) || line.includes(`IP ${b} > ${a}`),
    ),
    'both ways, and nothing else',
  )
  t.match(lines[0], /^\d\d:\d\d:\d\d\.\d{6} IP .* ICMP echo/)
  t.equal((await stat(inner)).mode & 0o777, 0o600, 'for its owner alone')

  const outer = join(directory, 'outer.pcapng')
  const more = ['--underlay', '--count=5', '--port=8285']
  const { stderr } = await flannelctl(one, ['capture', '--output', outer, ...more])
  t.equal(stderr, '5 packets of eth0 written, 0 missed\n')
  t.match(await dump(outer), Array(5).fill(/IP 192\.168\.77\.1\d\.8285 > .*: UDP/))
  await stopTraffic(traffic)

  const none = join(directory, 'none.pcapng')
  const nothing = ['--host=203.0.113.1', '--seconds=1']
  const empty = await flannelctl(one, ['capture', '--output', none, ...nothing])
  t.equal(empty.stderr, '0 packets of flannel0 written, 0 missed\n')

  t.equal((await flannelctl(one, ['capture', '--output', none])).exitCode, 1, 'once')
  for (const wrong of [[], ['--output=x', '--count=0'], ['--output=x', '--host=me']])
    t.equal((await flannelctl(one, ['capture', ...wrong])).exitCode, 2)
})

t.test('drops says what was dropped, why, and who sent it', async t => {
  const nothing = await flannelctl(one, ['drops'])
  t.equal(nothing.exitCode, 0)
  t.equal(nothing.stdout, 'nothing was dropped\n')

  const stranger = new LabNode(underlayNamespace(lab.name))
  const [source, destination] = [two.container.address, one.container.address]
  await sendDatagram(stranger, one, echoRequest(source, destination))

  await waitFor('the drop is counted', async () => {
    const { stdout } = await flannelctl(one, ['drops'])
    return /^1 +unknownSender .*--verify=inner/m.test(stdout)
  })
  const { stdout } = await flannelctl(one, ['drops'])
  const sender = `192.168.77.1 +${source} +unknownSender +1`
  t.match(stdout, new RegExp(`^${sender.replaceAll('.', '\\.')}$`, 'm'))
  t.match(await json(one, 'drops'), { drops: { unknownSender: 1 }, socketDrops: 0 })
})

t.test('routes --probe pings the remotes', async () => {
  await waitFor('one is answered in time', async () => {
    const { exitCode, stdout } = await flannelctl(one, ['routes', '--probe'])
    return exitCode === 0 && / ok +\d+\.\d\d ms$/m.test(stdout)
  })
})

t.test('status is one screen, and its exit code says how things are', async t => {
  const well = await waitFor('all is well', async () => {
    const said = await flannelctl(one, ['status'])
    return said.exitCode === 0 && said
  })

  t.match(well.stdout, /^daemon +ready/m)
  t.match(well.stdout, new RegExp(`^subnet +${subnets[0].replaceAll('.', '\\.')}, `, 'm'))
  t.match(well.stdout, /^remotes +1$/m)

  const none = await flannelctl(one, ['status', '--etcd-prefix=/nobody'])
  t.match(none, { exitCode: 1, stderr: /no flanneld for --etcd-prefix \/nobody runs/ })
})

t.test('a key that cannot be read is shown, with an exit code', async t => {
  const key = '/coreos.com/network/subnets/rubbish'
  await lab.etcd.ctl('put', key, 'x')

  const leases = await flannelctl(one, ['leases'])
  t.equal(leases.exitCode, 3)
  t.match(leases.stderr, /unreadable: .*rubbish/)
  await waitFor('the daemon shows it', async () =>
    (await flannelctl(one, ['status'])).stdout.includes('subnets/rubbish'),
  )

  await lab.etcd.ctl('del', key)
})

t.test('config check explains what follows, and refuses what cannot be', async t => {
  const good = await flannelctl(one, ['config', 'check', '{"Network":"10.9.0.0/16"}'])
  t.equal(good.exitCode, 0)
  t.match(good.stdout, /SubnetLen is 24: Network is \/16, so each host gets a \/24/)

  const refusals: [string, RegExp][] = [
    ['{"Network":"10.9.0.0/33"}', /"10\.9\.0\.0\/33" is not an IP address range/],
    ['{', /not JSON/],
    ['{"Network":"10.9.0.0/16","Backend":{"Type":"warp"}}', /unknown backend type: warp/],
    ['{"Network":"10.9.0.0/16","Backend":{"Type":"udp","Port":0}}', /Port is 0/],
  ]
  for (const [text, why] of refusals) {
    t.match(await flannelctl(one, ['config', 'check', text]), {
      exitCode: 1,
      stderr: why,
    })
  }
  const piped = await flannelctl(
    one,
    ['config', 'check', '-'],
    '{"Network":"10.9.0.0/29"}',
  )
  t.match(piped, { exitCode: 1, stderr: /too small/ })
})

t.test('config check warns of a network that this host uses', async t => {
  const { stderr } = await flannelctl(one, [
    ...['config', 'check', '{"Network":"192.168.0.0/16"}'],
  ])

  t.match(stderr, /warning: on this host, network 192\.168\.0\.0\/16 overlaps .* eth0/)
})

t.test('config set stores nothing that strands a lease, unless forced', async t => {
  const before = await lab.etcd.ctl('get', CONFIG, '--print-value-only')

  const refused = await flannelctl(one, ['config', 'set', '{"Network":"10.9.0.0/16"}'])
  t.match(refused, { exitCode: 1, stderr: /2 leases do not fit this configuration/ })
  t.equal(await lab.etcd.ctl('get', CONFIG, '--print-value-only'), before)

  const wanted = '{"Network":"10.5.0.0/16","SubnetLen":24}'
  const set = await flannelctl(one, ['config', 'set', wanted])
  t.equal(set.exitCode, 0, set.stderr)
  t.equal((await lab.etcd.ctl('get', CONFIG, '--print-value-only')).trim(), wanted)
})

t.test('a configuration that is only written otherwise changes nothing', async () => {
  await lab.etcd.ctl('put', CONFIG, '{ "network": "10.5.0.0/16" }')
  await lab.etcd.ctl('put', CONFIG, '{"Network":"10.5.0.0/33"}')
  await waitFor('the daemon says why it would not start with it', async () =>
    (await flannelctl(one, ['status'])).stdout.includes('"10.5.0.0/33" is not an IP'),
  )

  await lab.etcd.ctl('put', CONFIG, '{ "network": "10.5.0.0/16" }')
  await waitFor('all is well', async () => {
    const { exitCode, stdout } = await flannelctl(one, ['status'])
    return exitCode === 0 && !stdout.includes('config')
  })
})

t.test('a changed configuration is pending until it is applied', async t => {
  const changed = '{"Network":"10.5.0.0/16","SubnetMax":"10.5.250.0"}'
  const set = await flannelctl(one, ['config', 'set', '--force', changed])
  t.equal(set.exitCode, 0, set.stderr)
  await waitFor('the daemon notes it', async () =>
    (await flannelctl(one, ['status'])).stdout.includes('flannelctl config apply'),
  )

  t.match(await flannelctl(one, ['config', 'apply']), { exitCode: 0 })

  await waitFor('it is applied', async () => {
    const { stdout } = await flannelctl(one, ['status'])
    return /^daemon +ready/m.test(stdout) && !stdout.includes('config apply')
  })
  const [own] = subnets
  const fits = Number(own.split('.')[2]) <= 250
  t.equal((await subnetOf(one.daemon)) === own, fits, 'a subnet that fits stays')
})

t.test('another Network is taken up too, and nothing of the old one stays', async t => {
  const network = '10.6.0.0/16'
  const wanted = JSON.stringify({ Network: network })
  const set = await flannelctl(one, ['config', 'set', '--force', wanted])
  t.equal(set.exitCode, 0, set.stderr)

  for (const host of [one, two]) await flannelctl(host, ['config', 'apply'])

  await waitFor('both are ready with it', async () => {
    const all = await Promise.all([one, two].map(host => flannelctl(host, ['status'])))
    return all.every(
      ({ exitCode, stdout }) => exitCode === 0 && stdout.includes(`network  ${network}`),
    )
  })
  const routes = await one.run(['ip', 'route', 'show', 'dev', 'flannel0'])
  t.match(routes, /^10\.6\.0\.0\/16 /)
  t.notMatch(routes, '10.5.')
  const rules = await one.run(['iptables', '-S', 'FLANNEL-FWD'])
  t.match(rules, '-d 10.6.0.0/16')
  t.notMatch(rules, '10.5.0.0/16')
  t.equal((await flannelctl(one, ['routes'])).exitCode, 0)
})

t.test('an unknown command, flag or argument is a usage error', async t => {
  t.match(await flannelctl(one, ['leses']), {
    exitCode: 2,
    stderr: /unknown command leses; did you mean leases\?/,
  })
  t.match(await flannelctl(one, ['leases', '--jsn']), {
    exitCode: 2,
    stderr: /did you mean --json\?/,
  })
  t.match(await flannelctl(one, ['config', 'sett']), { exitCode: 2, stderr: /usage/ })
})

t.test('with etcd away the host is asked, and says so', async t => {
  await lab.etcd.stop()

  t.match(await flannelctl(one, ['leases']), {
    exitCode: 1,
    stderr: /etcd at http:\/\/192\.168\.77\.1:2379 is not available/,
  })
  await waitFor('the daemon notices', async () => {
    const { exitCode, stdout } = await flannelctl(one, ['status'])
    return exitCode === 3 && stdout.includes('does not answer')
  })
  t.equal((await flannelctl(one, ['routes'])).exitCode, 0)
})

t.test('a terminal that hangs up ends a daemon in the foreground', async () => {
  await lab.etcd.start()
  await two.daemon.kill('SIGINT')
  const flags = [`--etcd-endpoints=${ETCD_ENDPOINT}`, '--iface=eth0', '--probe-rate=0']
  const daemon = [
    process.execPath,
    two.daemon.program,
    ...flags,
    ...two.daemon.placeFlags,
  ]
  const terminal = ['script', '--quiet', '--command', daemon.join(' '), '/dev/null']
  const command = ['--pdeathsig', 'KILL', '--', ...inside(two.namespace, terminal)]
  const child = spawn('setpriv', command, { stdio: 'ignore' })
  const phase = async (): Promise<string> => {
    const status = await two.daemon.status().catch(() => undefined)
    return status?.phase ?? 'gone'
  }
  await waitFor('it is ready', async () => (await phase()) === 'ready')
  child.kill('SIGKILL')
  await waitFor('it ends', async () => (await phase()) === 'gone')
  await waitFor(
    'and forwarding with it',
    async () => !(await two.run(['ip', 'link'])).includes('flannel0'),
  )
})
