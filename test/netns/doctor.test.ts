/** Hosts that are broken in one way each: doctor names that and nothing else, and its command mends it. */
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { ipInside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { openLab } from '../../cmd/flannelctl/lab/lab.js'
import { underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { type Case, diagnose, expectCause } from './diagnosis.js'
import { reaches } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const NAME = 't-doctor'
const IFACE = 'flanneld --iface='

const lab = await openLab({ name: NAME, hosts: 3, flags: ['--probe-rate=50'] })
t.teardown(async () => {
  await lab.close()
})
const host = lab.host(1)
const underlay = underlayNamespace(NAME)

/** What the operator does whom doctor tells to. */
async function mend(command: string): Promise<void> {
  if (command.startsWith(IFACE)) {
    await host.daemon.kill('SIGINT')
    await host.daemon.start(undefined, [`--iface=${command.slice(IFACE.length)}`])
  } else if (command === 'systemctl start flanneld') await host.daemon.start()
  else if (command.startsWith('systemctl restart etcd,')) await lab.etcd.start()
  else await host.run(['sh', '-c', command])
}

/** Takes a link from the underlay. Who has learnt an address by it would keep it for half a minute. */
async function unplug(link: string): Promise<void> {
  await ipInside(underlay, [`link delete ${link}`, 'neigh flush all'])
  for (const each of lab.hosts) await ipInside(each.namespace, ['neigh flush all'])
}

function breaks(name: string, broken: Case): Promise<unknown> {
  return t.test(name, (t: Test) =>
    expectCause(t, broken, {
      ask: () => diagnose(host, 'doctor'),
      mend,
      flows: () => reaches(host, lab.host(2)),
    }),
  )
}

const sh = (command: string) => (): Promise<string> => host.run(['sh', '-c', command])

await t.test('a host that is well', async t => {
  await waitFor('nothing is said', async () => {
    const { exitCode, stdout, stderr } = await flannelctl(host, ['doctor'])
    return exitCode === 0 && stdout === '' && stderr === ''
  })
  const { stdout, stderr } = await flannelctl(host, ['doctor', '--json'])
  t.equal(stderr, '')
  const { checks } = JSON.parse(stdout) as { checks: unknown[] }
  t.same(checks[0], { check: 'privileges', state: 'ok', what: null, mend: null })
})

await breaks('forwarding is off', {
  check: 'forwarding',
  what: /net\.ipv4\.ip_forward is 0/,
  spoil: sh('echo 0 > /proc/sys/net/ipv4/ip_forward'),
})

await breaks('the firewall drops the port', {
  check: 'port',
  what: /drops UDP 8285 from 192\.168\.77\.1[23] .*-A INPUT -p udp .*--dport 8285 -j DROP/,
  spoil: sh('iptables -A INPUT -p udp --dport 8285 -j DROP'),
  tidyUp: sh('iptables -P INPUT ACCEPT; iptables -F INPUT'),
})

await breaks('the policy of INPUT is DROP', {
  check: 'port',
  what: /iptables-nft -P INPUT DROP/,
  spoil: sh(
    'iptables -D INPUT -i eth0 -p udp --dport 8285 -j ACCEPT; iptables -F INPUT; iptables -A INPUT -p tcp -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -P INPUT DROP',
  ),
  tidyUp: sh('iptables -P INPUT ACCEPT; iptables -F INPUT'),
})

await breaks('Docker forbids forwarding, and our rules are off', {
  check: 'forward-rules',
  what: /drops packets from flannel\d to docker0 \(iptables-nft -P FORWARD DROP\)/,
  spoil: async () => {
    await host.daemon.kill('SIGINT')
    await sh('iptables -F FORWARD; iptables -P FORWARD DROP')()
    await host.daemon.start(undefined, ['--iptables-forward-rules=false'])
  },
})

await breaks('the daemon is dead', {
  check: 'daemon',
  what: /flanneld does not run/,
  spoil: () => host.daemon.kill('SIGINT'),
})

await breaks('the underlay is down', {
  check: 'underlay',
  what: /eth0, by which other hosts are reached, is down/,
  spoil: () => host.run(['ip', 'link', 'set', 'eth0', 'down']),
})

await breaks('another machine has the same address', {
  check: 'duplicate-address',
  what: /another machine, 02:00:00:00:00:99, answers for 192\.168\.77\.11/,
  spoil: () =>
    ipInside(underlay, [
      'link add twin0 type veth peer name twin1',
      'link set twin0 address 02:00:00:00:00:98 master br0 up',
      'link set twin1 address 02:00:00:00:00:99 netns ' + lab.host(3).namespace,
    ]).then(() =>
      ipInside(lab.host(3).namespace, [
        'link set twin1 up',
        'address add 192.168.77.11/32 dev twin1',
      ]),
    ),
  mend: () => unplug('twin0'),
})

await breaks('etcd is down', {
  check: 'etcd',
  what: /etcd cannot be asked at http:\/\/192\.168\.77\.1:2379/,
  spoil: () => lab.etcd.stop(),
})

await breaks("Docker's bridge has the address of another subnet", {
  check: 'bridge',
  what: /docker0 is at 172\.17\.0\.1\/16, and the subnet of this host is 10\.5\./,
  spoil: sh('ip address flush dev docker0; ip address add 172.17.0.1/16 dev docker0'),
  // What a Docker that is started again does.
  mend: async () => {
    const address = (await host.daemon.environment()).get('FLANNEL_SUBNET') ?? ''
    await sh(`ip address flush dev docker0; ip address add ${address} dev docker0`)()
  },
})

await breaks("Docker's bridge has another MTU", {
  check: 'bridge-mtu',
  what: /docker0 takes packets of 1500 bytes, and the overlay of 1472/,
  spoil: sh('ip link set docker0-p mtu 1500; ip link set docker0 mtu 1500'),
})

await breaks('rp_filter is strict, and a host is reached by another interface', {
  check: 'rp-filter',
  what: /drops what comes from 192\.168\.77\.12 by eth0: its strict rp_filter wants it to come by eth1/,
  spoil: async () => {
    await ipInside(underlay, [
      `link add side type veth peer name eth1 netns ${host.namespace}`,
      'link set side master br0 up',
    ])
    await sh(
      'ip link set eth1 up; ip route add 192.168.77.12 dev eth1 src 192.168.77.11',
    )()
    await sh('echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter')()
  },
  tidyUp: () => unplug('side'),
})

await breaks('the wrong interface is used', {
  check: 'interface',
  what: /flanneld uses eth9 \(203\.0\.113\.9\), and every other host is reached by eth0/,
  spoil: async () => {
    await sh(
      'ip link add eth9 type veth peer name eth9p; ip link set eth9p up; ip link set eth9 up; ip link set eth9 address $(ip link show eth0 | awk "/ether/{print \\$2}"); ip address add 203.0.113.9/24 dev eth9',
    )()
    await host.daemon.kill('SIGINT')
    await host.daemon.start(undefined, ['--iface=eth9'])
  },
  tidyUp: () => host.run(['ip', 'link', 'delete', 'eth9']),
})

await breaks('an earlier flannel has left its device', {
  check: 'leftovers',
  what: /the route 10\.5\.\d+\.0\/24 leads to flannel\.1, which an earlier flannel has left/,
  spoil: async () => {
    const environment = await lab.host(2).daemon.environment()
    const subnet = (environment.get('FLANNEL_SUBNET') ?? '').replace('.1/', '.0/')
    await sh(
      `ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning; ip link set flannel.1 up; ip route add ${subnet} dev flannel.1`,
    )()
  },
})

await t.test('the clock is wrong', async () => {
  const program = new URL('../../cmd/flannelctl.js', import.meta.url).pathname
  const command = ['faketime', '-f', '+10m', process.execPath, program, 'doctor']
  const flags = ['--etcd-endpoints=http://192.168.77.1:2379', ...host.daemon.placeFlags]
  const said =
    /^clock: the clock of this host is \d+ s ahead of that of etcd\n {2}timedatectl set-ntp true\n$/
  await waitFor('it is said', async () => {
    const text = await runInside(
      host.namespace,
      ['sh', '-c', '"$@" || true', 'sh', ...command, ...flags],
      { environment: { FAKETIME_DONT_FAKE_MONOTONIC: '1' } },
    )
    return said.test(text)
  })
})

await t.test('report', async t => {
  const file = join(t.testdir(), 'report.txt')
  const said = await flannelctl(host, ['report', `--output=${file}`])
  t.match(said, { exitCode: 0, stderr: '', stdout: /read it before you send it/ })
  const text = await readFile(file, 'utf8')
  t.equal((await stat(file)).mode & 0o777, 0o600, 'for its owner alone')
  t.match(text, /^forwarding: ok$/m, 'what doctor finds')
  t.match(text, /"phase": "ready"/, 'what the daemon says')
  t.match(text, /^FLANNEL_SUBNET=10\.5\./m, 'the subnet file')
  t.match(text, /"event":"holding"/, 'what has become of the lease')
  t.match(text, /^-A FORWARD .*FLANNEL-FWD$/m, 'the firewall')
  t.match(text, /10\.5\.0\.0\/16 dev flannel0/, 'routes')
  t.equal((await flannelctl(host, ['report', `--output=${file}`])).exitCode, 1, 'once')
  const { stdout } = await flannelctl(host, ['report', '--json'])
  const { sections } = JSON.parse(stdout) as { sections: { title: string }[] }
  t.ok(sections.some(({ title }) => title === 'ip rule show'))
})

await t.test('usage', async t => {
  t.match(
    (await flannelctl(host, ['doctor', '--help'])).stdout,
    /flannelctl doctor --verbose/,
  )
  t.equal((await flannelctl(host, ['doctor', 'me'])).exitCode, 2)
})
