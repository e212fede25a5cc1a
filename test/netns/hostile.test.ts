/**
 * What a peer with write access to etcd, or whoever looks over our shoulder, gets out of a
 * host: nothing.
 */
import { readFile, readdir, readlink } from 'node:fs/promises'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { join } from 'node:path'
import t from 'tap'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { ETCD_ENDPOINT } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import {
  isRunning,
  openTestLab,
  pathOf,
  reaches,
  startTraffic,
  stopTraffic,
  subnetOf,
} from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const SUBNETS = '/coreos.com/network/subnets'
/** Subnets that the hostile records name. */
const ROOM = 20
const SECRET = 'correct-horse-battery-staple'

const record = (value: object): string =>
  JSON.stringify({ PublicIP: '192.168.77.66', PublicIPv6: null, ...value })

/** The address of the nth subnet of those that no host holds, or one in it. */
type FreeSubnets = (n: number, host?: number) => string

/** Room for all records: hosts choose their subnets anywhere in 10.5.0.0/16. */
function freeSubnets(held: readonly string[]): FreeSubnets {
  const thirds = held.map(subnet => Number(subnet.split('.')[2]))
  const isFree = (first: number): boolean =>
    thirds.every(third => third < first || third >= first + ROOM)
  const first = [1, 101, 201].find(isFree) ?? 1
  return (n, host = 0) => `10.5.${first + n}.${host}`
}

/** Keys below subnets/ with their values: each would do harm if it were believed. */
function hostileRecords(
  at: FreeSubnets,
  ownSubnet: string,
  ownAddress: string,
): [key: string, value: string][] {
  const own = ownSubnet.replace('/', '-')
  return [
    [`${at(0)}-24`, record({ PublicIP: '$(reboot)' })],
    [`${at(1)}-24`, record({ PublicIP: '192.168.77.66; reboot' })],
    [`${at(2)}-24`, record({ PublicIP: ownAddress, HostID: 'other' })],
    [`${at(3)}-24`, record({ PublicIP: '127.0.0.1' })],
    [`${at(4)}-24`, record({ PublicIP: '224.0.0.1' })],
    [`${at(5)}-24`, record({ PublicIP: '0.0.0.0' })],
    [`${at(6)}-24`, record({ PublicIP: '255.255.255.255' })],
    [`${at(7)}-24`, record({ PublicIP: ['192.168.77.66'] })],
    [`${at(8)}-24`, record({ PublicIP: 3_232_255_810 })],
    [`${at(9)}-24`, `{"PublicIP":"192.168.77.66","__proto__":{"BackendType":"x"}`],
    [`${at(10)}-24`, '['.repeat(100_000)],
    [`${at(11)}-24`, record({ BackendType: 'x'.repeat(1 << 20) })],
    [
      `${at(12)}-24`,
      record({ BackendData: { VNI: '1e999', VtepMAC: 'ff:ff:ff:ff:ff:ff' } }),
    ],
    [
      `${at(13)}-24`,
      record({ BackendType: 'vxlan', BackendData: { VtepMAC: '01:00:5e:00:00:01' } }),
    ],
    ['10.5.0.0-16', record({})],
    ['10.0.0.0-8', record({})],
    ['0.0.0.0-0', record({})],
    ['192.168.77.0-24', record({})],
    ['192.168.77.1-32', record({})],
    [own.replace('-24', '-25'), record({})],
    [own.replace('-24', '-16'), record({})],
    [`${at(14)}-99`, record({})],
    [`${at(15, 7)}-24`, record({})],
    ['../../etc/passwd', record({})],
    [`${at(16)}-24/../../config`, record({})],
    [`${at(17)}-24\u{202e}`, record({})],
    [`${at(18)}-24;reboot`, record({})],
    ['', record({})],
  ]
}

/** The value comes by standard input: one is longer than an argument may be. */
async function put(host: LabHost, key: string, value: string): Promise<void> {
  await host.run(
    ['etcdctl', `--endpoints=${ETCD_ENDPOINT}`, 'put', `${SUBNETS}/${key}`],
    {
      input: value,
      environment: ETCDCTL_ENVIRONMENT,
    },
  )
}

/** All that packets are sent by, as the kernel has it. */
async function kernelOf(host: LabHost): Promise<string> {
  // Without what the kernel makes by itself, some time after a link is up.
  const script = `ip route show table all | grep -v '^local\\|^broadcast\\|^multicast\\|^anycast\\|^fe80' | sed 's/ linkdown//'
    ip rule; ip neigh show nud permanent
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
    await waitFor('they reach each other', () => reaches(one, two))
    const pid = one.daemon.pid
    const before = await kernelOf(one)
    const held = await Promise.all(lab.hosts.map(host => subnetOf(host.daemon)))
    const at = freeSubnets(held)
    const records = hostileRecords(at, held[0] ?? '', one.address)
    for (const [key, value] of records) await put(one, key, value)
    // What comes last has been read when it is told of.
    const last = `${at(ROOM - 1)}-24`
    await put(one, last, record({ PublicIP: two.address, BackendType: 'nonsense' }))
    await waitFor('the last is read', async () =>
      (await readFile(one.daemon.logFile, 'utf8')).includes(last),
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
  // Seldom enough for a path that stands still for seconds to lose none.
  const traffic = await startTraffic(one, two, 50)
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
