/**
 * The way of an operator: the commands of README.md as they are printed there, on two hosts
 * with systemd, dpkg and Docker of their own.
 *
 *   box ─ docker0 ─ machine1 ═ flannel0 ~~ UDP ~~ flannel0 ═ machine2 ─ docker0 ─ box
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Lab } from '../../cmd/flannelctl/lab/lab.js'
import { COMMANDS } from '../../cmd/flannelctl/commands.js'
import { ETCD_ADDRESS } from '../../cmd/flannelctl/lab/topology.js'
import { run } from '../../lib/linux/run.js'
import { Machine } from './machine.js'
import { waitFor } from '../helpers/wait-for.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const FIRST = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as {
  version: string
}
const NEXT = `${FIRST.version}+1`

const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
const unread = new Set(
  Array.from(readme.matchAll(/^```\n([^]*?)^```/gm), ([, text = '']) => text),
)

/** The block of the README that has a text in it, with the addresses of this network. */
function block(having: string): string {
  const [found, ...more] = [...unread].filter(text => text.includes(having))
  if (found === undefined || more.length > 0)
    throw new Error(`README.md has ${more.length + 1} unread blocks with ${having}`)
  unread.delete(found)
  return found.replaceAll('192.0.2.10', ETCD_ADDRESS)
}

const directory = await mkdtemp(join(tmpdir(), 'flanneld-machine-test-'))
t.teardown(() => rm(directory, { recursive: true }))

/** Makes our package in a version; the path of its file. */
async function makePackage(version: string): Promise<string> {
  const args = [`--version=${version}`, `--output=${directory}`]
  const script = join(ROOT, 'scripts/deb.mjs')
  const text = await run(process.execPath, [script, '--no-build', ...args], {
    timeoutMs: 120_000,
  })
  return text.trim()
}

/** The Node.js that runs this, as a package, unless it came by one. */
const NODE_PACKAGE = `
dpkg-query --status nodejs >/dev/null 2>&1 && exit
mkdir -p nodejs/DEBIAN nodejs/usr/bin
printf '%s\\n' 'Package: nodejs' 'Version: ${process.versions.node}' 'Architecture: all' \\
  'Maintainer: nobody' 'Description: Node.js from elsewhere' >nodejs/DEBIAN/control
[ ${process.execPath} = /usr/bin/node ] || ln -s ${process.execPath} nodejs/usr/bin/node
dpkg-deb --build nodejs nodejs.deb && dpkg --install nodejs.deb`

const lab = await Lab.make({ name: 't-mach', hosts: 2 })
t.teardown(() => lab.close())
await lab.etcd.start()
const [one, two] = (await Promise.all(
  lab.hosts.map((host, index) => Machine.boot(t, `machine${index + 1}`, host.namespace)),
)) as [Machine, Machine]
const machines = [one, two]
const [first, next] = await Promise.all([makePackage(FIRST.version), makePackage(NEXT)])

/** Ctrl-C after a while; one that has not begun to listen by then is given longer. */
const INTERRUPTED = `#!/bin/sh
for seconds in 1 4 16; do
    timeout --preserve-status --signal=INT $seconds "$@" && exit
done`

for (const machine of machines)
  await machine.shell('cd /usr/local/bin; cat >interrupted; chmod +x interrupted', {
    input: INTERRUPTED,
  })

/** A container of Debian's static busybox alone. */
const BOX = `mkdir -p box/bin && cp "$(command -v busybox)" box/bin/
for name in sh sleep ping; do ln -s busybox box/bin/$name; done
tar -C box -c . | docker import - box
docker run --detach --restart=always --stop-signal=KILL --name=box box /bin/sleep 100000`

/** The number of its daemon, once that is ready; undefined till then. */
async function readyPid(machine: Machine): Promise<string | undefined> {
  const properties = '--property=ActiveState --property=MainPID'
  const text = await machine.shell(`systemctl show ${properties} flanneld`)
  return /^MainPID=([1-9]\d*)\nActiveState=active$/m.exec(text)?.[1]
}

/** Waits until another daemon is ready. */
async function otherDaemon(machine: Machine, before: string | undefined): Promise<void> {
  await waitFor('another daemon is ready', async () => {
    const pid = await readyPid(machine)
    return pid !== undefined && pid !== before
  })
}

/** Has one box ping the other until the function is called that says how many replies are missing. */
async function startPing(): Promise<() => Promise<number>> {
  const to = await addressOf(two)
  const pid = (await one.shell("docker inspect -f '{{.State.Pid}}' box")).trim()
  await one.shell(
    `systemd-run --collect --property=Type=exec --property=StandardOutput=truncate:/run/traffic --unit=traffic nsenter --net --target=${pid} ping -i 0.05 ${to}`,
  )
  const replies = async (): Promise<number[]> =>
    Array.from(
      (await one.shell('cat /run/traffic')).matchAll(/icmp_seq=(\d+) ttl/g),
      ([, number]) => Number(number),
    )
  const flow = async (more: number): Promise<void> => {
    const { length } = await replies()
    await waitFor('packets flow', async () => (await replies()).length > length + more)
  }
  await flow(20)
  return async () => {
    await flow(20)
    await one.shell('systemctl stop traffic')
    const numbers = await replies()
    return Math.max(...numbers) - new Set(numbers).size
  }
}

/** What its daemon holds, which may be about to join the network again. */
const subnetOf = (machine: Machine): Promise<string> =>
  waitFor('the daemon has a subnet', async () => {
    const text = await machine.shell('flannelctl status --json')
    return (JSON.parse(text) as { lease?: { subnet: string } }).lease?.subnet
  })

/** The address of the container `box` of a host. */
const addressOf = async (machine: Machine): Promise<string> =>
  (await machine.shell("docker inspect -f '{{.NetworkSettings.IPAddress}}' box")).trim()

await t.test('the package is installed', async t => {
  const text = block('npm run deb')
  for (const machine of machines) {
    await machine.shell('mkdir -p dist/deb')
    await machine.copy(first, `dist/deb/flanneld_${FIRST.version}_amd64.deb`)
    await machine.shell(NODE_PACKAGE)
  }
  // Cloned and made it is already, by this test.
  const said = await Promise.all(
    machines.map(machine =>
      machine.shell(text.replace(/^git clone.*\nnpm run deb.*\n/, '')),
    ),
  )
  for (const each of said)
    t.match(
      each,
      /not started yet\. Next:\n {2}1\. name etcd in \/etc\/default\/flanneld/,
    )
  t.equal(await one.shell('flannelctl --version'), `${FIRST.version}\n`)
  const files = (await one.shell('dpkg --listfiles flanneld')).split('\n')
  for (const path of [
    '/etc/default/flanneld',
    '/usr/lib/systemd/system/flanneld.service',
    '/usr/share/man/man8/flanneld.8.gz',
    '/usr/share/bash-completion/completions/flannelctl',
    '/usr/share/doc/flanneld/copyright',
    '/usr/share/doc/flanneld/sbom.cdx.json.gz',
  ])
    t.ok(files.includes(path), path)
  t.same(
    files.filter(path => /\/(tap|typescript|eslint)\//.test(path)),
    [],
  )
})

await t.test('flanneld runs in its unit', async t => {
  t.match(await one.shell(block('config set')), /10\.5\.0\.0\/16/)
  const settings = block('systemctl enable --now flanneld')
  await Promise.all(machines.map(machine => machine.shell(settings)))
  for (const machine of machines)
    t.match(
      await machine.shell('cat /run/flannel/subnet.env'),
      /^FLANNEL_SUBNET=10\.5\./m,
    )
  const pid = (await readyPid(one)) ?? ''
  const status = await one.shell(`cat /proc/${pid}/status`)
  t.match(status, /^Seccomp:\s2$/m, 'system calls are filtered')
  t.match(status, /^NoNewPrivs:\s1$/m)
  const filters = (text: string): number =>
    Number(/^Seccomp_filters:\s(\d+)/m.exec(text)?.[1])
  const path = await one.shell('cat /proc/$(pgrep -x flanneld-path)/status')
  t.equal(filters(path), filters(status) + 1, 'and once more by the packet path')
  await waitFor('systemd knows how it goes', async () =>
    (await one.shell('systemctl show -p StatusText flanneld')).startsWith(
      'StatusText=10.5.',
    ),
  )
})

await t.test('containers of Docker reach each other', async () => {
  const text = block('docker.service.d/flanneld.conf')
  await Promise.all(
    machines.map(async machine => {
      await machine.shell(text)
      await machine.shell(BOX)
    }),
  )
  const [from, to] = await Promise.all(machines.map(addressOf))
  for (const [machine, address = ''] of [
    [one, to],
    [two, from],
  ] as const)
    await waitFor(`${address} answers`, () =>
      machine.shell(`docker exec box ping -c 1 ${address}`),
    )
})

await t.test('an upgrade loses no packet', async t => {
  const before = await readyPid(one)
  await one.copy(next, 'next.deb')
  const traffic = await startPing()
  await one.shell('dpkg --install next.deb')
  await otherDaemon(one, before)
  t.equal(await traffic(), 0)
  t.equal(await one.shell('flannelctl --version'), `${NEXT}\n`)
})

await t.test('it is started again, and its packets go on', async t => {
  await one.shell('mkdir -p /run/systemd/system/flanneld.service.d')
  await one.shell(`cat >/run/systemd/system/flanneld.service.d/watchdog.conf`, {
    input: '[Service]\nWatchdogSec=5\n',
  })
  await one.shell('systemctl daemon-reload && systemctl restart flanneld')
  for (const signal of ['KILL', 'STOP']) {
    const before = await readyPid(one)
    const traffic = await startPing()
    await one.shell(`systemctl kill --kill-whom=main --signal=${signal} flanneld`)
    await otherDaemon(one, before)
    t.equal(await traffic(), 0, signal)
  }
  // It would end a daemon that a busy machine keeps waiting.
  await one.shell('rm /run/systemd/system/flanneld.service.d/watchdog.conf')
  await one.shell('systemctl daemon-reload && systemctl restart flanneld')
  const before = await waitFor('it is ready', () => readyPid(one))
  await one.shell('systemctl reload flanneld')
  await waitFor(
    'it is ready again, the same, which has read its files again',
    async () => (await readyPid(one)) === before,
  )
})

await t.test('every backend runs within the limits of the unit', async t => {
  const to = await addressOf(two)
  for (const [type, more] of [
    ['vxlan', {}],
    ['wireguard', {}],
    ['host-gw', { EnableNFTables: true }],
    ['udp', {}],
  ] as const) {
    const config = JSON.stringify({
      Network: '10.5.0.0/16',
      Backend: { Type: type },
      ...more,
    })
    await one.shell(`flannelctl config set '${config}' && flannelctl config apply`)
    await two.shell('flannelctl config apply')
    for (const machine of machines)
      await waitFor(`${type} is there`, async () =>
        (await machine.shell('flannelctl status')).includes(type),
      )
    await waitFor(`${type} carries packets`, () =>
      one.shell(`docker exec box ping -c 1 -W 1 ${to}`),
    )
  }
  t.notMatch(await one.journal('flanneld'), /EPERM|EACCES|not permitted|denied/i)
})

/** Waits until Docker of the second host has the subnet that is leased. */
async function dockerFollows(): Promise<void> {
  await waitFor('Docker has the subnet', async () => {
    const address = (await subnetOf(two)).replace('.0/', '.1/')
    return (await two.shell('ip address show docker0')).includes(address)
  })
}

/** Subnets that neither host holds. */
async function freeSubnets(): Promise<string[]> {
  const held = await Promise.all(machines.map(subnetOf))
  const all = Array.from({ length: 5 }, (_, index) => `10.5.${200 + index}.0/24`)
  return all.filter(subnet => !held.includes(subnet))
}

/** Commands of a text, one a line, for these hosts. */
function commandsOf(text: string, names: Readonly<Record<string, string>>): string[] {
  const pattern = new RegExp(
    Object.keys(names)
      .map(name => name.replaceAll(/[.[\]|]/g, '\\$&'))
      .join('|'),
    'g',
  )
  return text
    .split('\n')
    .map(line => line.replace(/ +#.*/, '').trim())
    .filter(line => line !== '')
    .map(line => line.replace(pattern, name => names[name] ?? name))
    .map(line =>
      line.replace(/^flannelctl (top|capture|watch)(?!.*count)/, 'interrupted $&'),
    )
}

/** As an operator types it; what measures is asked again where the machine was busy. */
async function enter(
  machine: Machine,
  line: string,
  options?: Parameters<Machine['shell']>[1],
): Promise<void> {
  const once = (): Promise<string> => machine.shell(line, options)
  const isMeasured = /flannelctl (why|doctor|peers|routes|status)/.test(line)
  await (isMeasured ? waitFor(line, once) : once())
}

await t.test('the commands of the README', async t => {
  const [moved = '', reserved = ''] = await freeSubnets()
  const [from = '', to = ''] = await Promise.all(machines.map(addressOf))
  for (const line of commandsOf(block('flannelctl why'), { 'A B': `${from} ${to}` })) {
    if (line === 'flannelctl cleanup') await t.rejects(one.shell(line), /runs/, line)
    else await t.resolves(enter(one, line), line)
  }
  const names = {
    HOST: lab.host(2).address,
    '[SUBNET]': moved,
    SUBNET: reserved,
    ID: 'spare',
  }
  // As the README has it for a host that gets another subnet.
  await two.shell('cat >>/etc/default/flanneld && systemctl restart flanneld', {
    input: 'FLANNELD_ON_SUBNET_CHANGE="systemctl start subnet-changed"\n',
  })
  for (const line of commandsOf(block('lease revoke'), names)) {
    await t.resolves(enter(two, line), line)
    if (line.includes('revoke')) await two.shell(`flannelctl lease allow ${names.HOST}`)
    if (!line.includes('release')) continue
    await waitFor('the daemon has left', async () => (await readyPid(two)) === undefined)
    await two.shell('systemctl start flanneld')
  }
  t.match(await two.shell('flannelctl lease history'), moved)
  await dockerFollows()
})

await t.test('the commands in the sentences of the README', async t => {
  const inline = readme.matchAll(/`((?:flannelctl|systemctl) [^`\n…]+)`/g)
  const lines = [...new Set(Array.from(inline, ([, line = '']) => line))]
    // Others run in the blocks, or in a test of their own with what they stand for.
    .filter(line => !/ [A-Z]+$| flannel$|cleanup/.test(line))
  t.ok(lines.length > 12, `${lines.length} commands`)
  for (const line of lines) {
    await t.resolves(enter(two, line), line)
    if (!/lease release|-s INT/.test(line)) continue
    await waitFor('the daemon has ended', async () => (await readyPid(two)) === undefined)
    if (line.includes('INT'))
      await t.rejects(two.shell('ip link show flannel0'), 'its device is gone')
    await two.shell('systemctl start flanneld')
  }
  await dockerFollows()
})

await t.test('the examples of the help texts', async t => {
  const third = (await freeSubnets()).at(-1) ?? ''
  const [from = '', to = ''] = await Promise.all(machines.map(addressOf))
  const helps = await Promise.all(
    Object.values(COMMANDS).map(async entry => (await entry.load()).help),
  )
  const text = helps
    .join('\n')
    .split('\n')
    .filter(line => /^ {2}(systemctl .*|flannelctl (?!lab|takeover).*)$/.test(line))
    .join('\n')
  await one.shell('cat >network.json', { input: '{"Network":"10.5.0.0/16"}' })
  await one.shell('cat >user-data', {
    input: '#cloud-config\ncoreos:\n  flannel:\n    interface: $private_ipv4\n',
  })
  await one.shell(
    'mkdir -p /etc/flannel; echo secret >/etc/flannel/etcd-password; chmod 600 /etc/flannel/etcd-password',
  )
  const lines = commandsOf(text, {
    '10.5.72.3': from,
    '10.5.9.2': to,
    '192.168.1.12': lab.host(2).address,
    '192.0.2.7': lab.host(2).address,
    '192.0.2.10': ETCD_ADDRESS,
    '10.5.9.0/24': third,
    '| less': '| cat',
    '--private-ipv4=10.0.0.5 --output=/': '--private-ipv4=10.0.0.5 --output=out',
    '/other/network': '/coreos.com/network',
  })
  // Containers of a host that has moved are of no use until Docker is restarted.
  const isMove = (line: string): number => Number(line.includes('lease move'))
  const environment = {
    ...ETCDCTL_ENVIRONMENT,
    ETCDCTL_ENDPOINTS: `http://${ETCD_ADDRESS}:2379`,
  }
  for (const line of lines.toSorted((a, b) => isMove(a) - isMove(b)))
    await t.resolves(enter(one, line, { environment }), line)
})

await t.test('takeover of a host that runs flannel, and back', async t => {
  const held = await subnetOf(two)
  const address = held.replace('.0/', '.1/')
  await dockerFollows()
  await one.shell('systemctl start flanneld')
  await two.shell('systemctl disable --now flanneld && flannelctl cleanup --state')
  // As stock flannel writes it.
  const key = `/coreos.com/network/subnets/${held.replace('/', '-')}`
  const granted = await lab.etcd.ctl('lease', 'grant', '86400')
  const id = /lease (\w+) granted/.exec(granted)?.[1] ?? ''
  await lab.etcd.ctl('put', `--lease=${id}`, key, `{"PublicIP":"${lab.host(2).address}"}`)
  await two.shell(
    'mkdir -p /opt/flannel && cat >/opt/flannel/flanneld && chmod +x /opt/flannel/flanneld',
    {
      input: `#!/bin/sh
mkdir -p /run/flannel
printf '%s\\n' FLANNEL_NETWORK=10.5.0.0/16 FLANNEL_SUBNET=${address} FLANNEL_MTU=1472 >/run/flannel/subnet.env
sleep 100000 & wait
`,
    },
  )
  await two.shell('cat >/etc/systemd/system/flannel.service', {
    input: `[Service]
Environment=FLANNELD_IP_MASQ=true
ExecStart=/opt/flannel/flanneld --etcd-endpoints=http://${ETCD_ADDRESS}:2379 -iface eth0
[Install]
WantedBy=multi-user.target
`,
  })
  await two.shell('rm /etc/default/flanneld; systemctl daemon-reload')
  const takeover = async (flag: string): Promise<string> =>
    await two.shell(`flannelctl takeover ${flag} 2>&1 || true`)
  const isActive = async (): Promise<string> =>
    await two.shell('systemctl is-active flannel flanneld || true')
  t.match(await takeover('--dry-run'), /no flannel runs on this host/)
  await two.shell('systemctl enable --now flannel')
  await waitFor('flannel has written its file', async () =>
    (await two.shell('cat /run/flannel/subnet.env || true')).includes(address),
  )

  const [dryRun = '', go = ''] = commandsOf(block('takeover --go'), {})
  const said = await two.shell(dryRun)
  t.match(
    said,
    /^flannel runs as process \d+ of flannel\.service, with the backend udp$/m,
  )
  t.match(said, `keep   the subnet ${held}, its device`)
  t.match(said, `FLANNELD_ETCD_ENDPOINTS=http://${ETCD_ADDRESS}:2379\n`)
  t.match(said, /FLANNELD_IFACE=eth0\n.*FLANNELD_IP_MASQ=true\n/)
  t.match(said, /stop {3}flannel\.service, and keep it from starting/)
  t.equal(await isActive(), 'active\ninactive\n', 'nothing has changed')
  t.match(await two.shell('ls /etc/flannel 2>&1 || true'), /No such file/)

  const dropIn = '/run/systemd/system/flanneld.service.d'
  await two.shell(
    `mkdir -p ${dropIn} && cat >${dropIn}/fail.conf && systemctl daemon-reload`,
    {
      input: '[Service]\nExecStartPre=/bin/false\n',
    },
  )
  t.match(
    await takeover('--go'),
    /it was taken back, and flannel\.service runs again: flanneld ends/,
  )
  t.equal(await isActive(), 'active\ninactive\n')
  t.match(await two.shell('ls /etc/flannel'), /^$/, 'settings are as they were')
  await two.shell(`rm ${dropIn}/fail.conf && systemctl daemon-reload`)

  for (const wayBack of ['takeover', 'by hand']) {
    await waitFor('flannel has written its file', async () =>
      (await two.shell('cat /run/flannel/subnet.env || true')).includes(address),
    )
    t.match(await two.shell(go), `flanneld is ready with ${held}`)
    await waitFor(
      'systemd says so',
      async () => (await isActive()) === 'inactive\nactive\n',
    )
    t.match(
      await two.shell('iptables-save -t nat'),
      'FLANNEL-POSTRTG',
      'its settings count',
    )
    await waitFor(
      'packets flow',
      async () =>
        await one
          .shell(`docker exec box ping -c 1 -W 1 ${address.replace(/\/.*/, '')}`)
          .then(
            () => true,
            () => false,
          ),
    )
    if (wayBack === 'takeover')
      t.equal(await takeover('--back'), 'flannel.service runs again\n')
    else await two.shell(block('systemctl start flannel'))
    t.notMatch(await two.shell('ip link; iptables-save'), /flannel0|FLANNEL/)
    t.match(
      await lab.etcd.ctl('get', '--prefix', key),
      held.replace('/', '-'),
      'etcd knows the host',
    )
  }
  t.match(await takeover('--json'), /takes one of --dry-run, --go and --back/)
})

await t.test('the package is removed, then purged', async t => {
  await one.shell('apt-get remove -y flanneld')
  t.match(await one.shell('ip link; iptables-save'), /^(?![^]*flannel)/i)
  t.match(
    await one.shell('ls /etc/default/flanneld /var/lib/flannel'),
    /host-id|network/,
    'settings and leases stay',
  )
  t.match(await one.shell('apt-get purge -y flanneld'), /flanneld\.conf still/)
  const left = await one.shell(
    "find /etc /usr /var /run/flannel /opt -xdev -name '*flannel*' || true",
  )
  t.equal(
    left,
    '/etc/systemd/system/docker.service.d/flanneld.conf\n',
    'which is not ours',
  )
})

await t.test('no block of the README is left', t => {
  const rest = [...unread].map(text => text.split(' ', 1)[0])
  t.same(rest, ['npm', 'containers.local'], 'but what CI runs, and a file of CoreDNS')
  t.end()
})
