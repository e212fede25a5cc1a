/**
 * What a peer with write access to etcd, or whoever looks over our shoulder, gets out of a
 * host: nothing.
 */
import { readFile, readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { ETCD_ENDPOINT } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import {
  isRunning,
  happens,
  openTestLab,
  pathOf,
  startTraffic,
  stopTraffic,
  subnetOf,
} from './open-test-lab.js'

const SUBNETS = '/coreos.com/network/subnets'
const SECRET = 'correct-horse-battery-staple'

const record = (value: object): string =>
  JSON.stringify({ PublicIP: '192.168.77.66', PublicIPv6: null, ...value })

/** Keys below subnets/ with their values: each would do harm if it were believed. */
function hostileRecords(
  ownSubnet: string,
  ownAddress: string,
): [key: string, value: string][] {
  const own = ownSubnet.replace('/', '-')
  return [
    ['10.5.201.0-24', record({ PublicIP: '$(reboot)' })],
    ['10.5.202.0-24', record({ PublicIP: '192.168.77.66; reboot' })],
    ['10.5.203.0-24', record({ PublicIP: ownAddress, HostID: 'other' })],
    ['10.5.204.0-24', record({ PublicIP: '127.0.0.1' })],
    ['10.5.205.0-24', record({ PublicIP: '224.0.0.1' })],
    ['10.5.206.0-24', record({ PublicIP: '0.0.0.0' })],
    ['10.5.207.0-24', record({ PublicIP: '255.255.255.255' })],
    ['10.5.208.0-24', record({ PublicIP: ['192.168.77.66'] })],
    ['10.5.209.0-24', record({ PublicIP: 3_232_255_810 })],
    ['10.5.210.0-24', `{"PublicIP":"192.168.77.66","__proto__":{"BackendType":"x"}`],
    ['10.5.211.0-24', '['.repeat(100_000)],
    ['10.5.212.0-24', record({ BackendType: 'x'.repeat(1 << 20) })],
    [
      '10.5.213.0-24',
      record({ BackendData: { VNI: '1e999', VtepMAC: 'ff:ff:ff:ff:ff:ff' } }),
    ],
    [
      '10.5.214.0-24',
      record({ BackendType: 'vxlan', BackendData: { VtepMAC: '01:00:5e:00:00:01' } }),
    ],
    ['10.5.0.0-16', record({})],
    ['10.0.0.0-8', record({})],
    ['0.0.0.0-0', record({})],
    ['192.168.77.0-24', record({})],
    ['192.168.77.1-32', record({})],
    [own.replace('-24', '-25'), record({})],
    [own.replace('-24', '-16'), record({})],
    ['10.5.215.0-99', record({})],
    ['10.5.216.7-24', record({})],
    ['../../etc/passwd', record({})],
    ['10.5.217.0-24/../../config', record({})],
    ['10.5.218.0-24\u{202e}', record({})],
    ['10.5.219.0-24;reboot', record({})],
    ['', record({})],
  ]
}

/** The value comes by standard input: one is longer than an argument may be. */
async function put(host: LabHost, key: string, value: string): Promise<void> {
  const etcdctl = ['env', 'ETCDCTL_API=3', 'etcdctl', `--endpoints=${ETCD_ENDPOINT}`]
  await host.run([...etcdctl, 'put', `${SUBNETS}/${key}`], { input: value })
}

/** All that packets are sent by, as the kernel has it. */
async function kernelOf(host: LabHost): Promise<string> {
  const script = `ip route show table all | grep -v '^local\\|^broadcast\\|^multicast'
    ip -6 route show | grep -v fe80; ip rule; ip neigh show nud permanent
    bridge fdb show | grep -v 33:33 | grep dst; ip -brief link | cut -d ' ' -f 1; true`
  return await host.run(['sh', '-c', script])
}

for (const type of ['udp', 'vxlan', 'host-gw']) {
  await t.test(`records of a hostile peer, with ${type}`, async t => {
    const lab = await openTestLab(t, {
      name: `t-bad-${type.slice(0, 3)}`,
      hosts: 2,
      backend: { Type: type },
    })
    const [one, two] = [lab.host(1), lab.host(2)]
    const [met] = await one.container.ping([two.container.address])
    t.equal(met?.received, 1)
    const pid = one.daemon.pid
    const before = await kernelOf(one)
    const records = hostileRecords(await subnetOf(one.daemon), one.address)
    for (const [key, value] of records) await put(one, key, value)
    // What comes last has been read when it is told of.
    await put(
      one,
      '10.5.220.0-24',
      record({ PublicIP: two.address, BackendType: 'nonsense' }),
    )
    await happens('the last is read', async () =>
      (await readFile(one.daemon.logFile, 'utf8')).includes('10.5.220.0-24'),
    )

    t.equal(await kernelOf(one), before, 'nothing in the kernel has changed')
    t.equal(one.daemon.pid, pid)
    t.ok(isRunning(pid))
    const [reached] = await one.container.ping([two.container.address])
    t.equal(reached?.received, 1)
    const log = await readFile(one.daemon.logFile, 'utf8')
    const longest = Math.max(...log.split('\n').map(line => line.length))
    t.ok(longest < 2000, `no line of the log is longer than ${longest}`)
    t.notMatch(log, /\u{202e}|TypeError|RangeError| at .*\.js/u)
    const { stdout, stderr } = await flannelctl(one, ['leases'])
    t.match(stdout, two.address, 'flannelctl reads it as well')
    t.notMatch(stdout + stderr, /[\u{202e}\u{2066}]/u, 'and tells it in plain letters')
  })
}

await t.test('the process that reads what strangers send', async t => {
  const lab = await openTestLab(t, { name: 't-bad-path', hosts: 2 })
  const [one, two] = [lab.host(1), lab.host(2)]
  const traffic = await startTraffic(one, two)
  const { pid } = await pathOf(one.daemon)
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'])
    t.match(status, new RegExp(`^${set}:\\s0+$`, 'm'), set)
  t.match(status, /^Uid:(\s65534){4}$/m)
  t.match(status, /^Gid:(\s65534){4}$/m)
  t.match(status, /^Groups:\s*$/m)
  t.match(status, /^NoNewPrivs:\s1$/m)
  for (const thread of await readdir(`/proc/${pid}/task`))
    t.match(
      await readFile(`/proc/${pid}/task/${thread}/status`, 'utf8'),
      /^Seccomp:\s2$/m,
      `thread ${thread}`,
    )
  const descriptors = await Promise.all(
    (await readdir(`/proc/${pid}/fd`)).map(fd => readlink(join(`/proc/${pid}/fd`, fd))),
  )
  const files = descriptors.filter(
    name => name.startsWith('/') && !name.startsWith('/memfd:'),
  )
  t.strictSame([...new Set(files)].sort(), ['/dev/net/tun', '/dev/null'], 'no file')
  const environment = await readFile(`/proc/${pid}/environ`, 'utf8')
  t.notMatch(environment, /FLANNELD|ETCD/)
  const { lost } = await stopTraffic(traffic)
  t.equal(lost, 0)
})

await t.test('secrets are nowhere to be seen', async t => {
  const lab = await openTestLab(t, { name: 't-bad-key', hosts: 1 })
  const one = lab.host(1)
  await one.daemon.kill('SIGINT')
  await lab.etcd.ctl('user', 'add', `root:${SECRET}`)
  await lab.etcd.ctl('user', 'grant-role', 'root', 'root')
  await lab.etcd.ctl('auth', 'enable')
  const file = join(t.testdir({}), 'password')
  await one.run(['sh', '-c', `umask 077; cat >${file}`], { input: `${SECRET}\n` })
  await one.daemon.start(undefined, [
    '--etcd-username=root',
    `--etcd-password-file=${file}`,
    '--etcd-insecure-password',
    '--log-level=debug',
  ])
  const places: [string, string][] = [
    ['status', JSON.stringify(await one.daemon.status())],
    ['log', await readFile(one.daemon.logFile, 'utf8')],
    ['report', (await flannelctl(one, ['report', '--output=-'])).stdout],
  ]
  const spaces = await readlink(`/proc/${one.daemon.pid}/ns/net`)
  for (const pid of (await readdir('/proc')).filter(name => /^\d+$/.test(name))) {
    if ((await readlink(`/proc/${pid}/ns/net`).catch(() => '')) !== spaces) continue
    for (const what of ['cmdline', 'environ'])
      places.push([
        `${what} of ${pid}`,
        await readFile(`/proc/${pid}/${what}`, 'utf8').catch(() => ''),
      ])
  }
  t.ok(places.length > 7, `${places.length} places`)
  for (const [name, text] of places) t.notOk(text.includes(SECRET), name)
  const { stdout } = await flannelctl(one, ['report', '--output=-'])
  t.match(stdout, one.address, 'the report says what it is for')
})
