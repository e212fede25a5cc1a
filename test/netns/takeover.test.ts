/**
 * flannelctl takeover, with a process that looks like flannel's and a systemctl that does what
 * the real one would: it starts the real flanneld with the settings that were written.
 */
import { spawn } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'
import { ETCD_ENDPOINT } from '../../cmd/flannelctl/lab/topology.js'
import { CommandError } from '../../lib/linux/run.js'
import { happens, openTestLab, subnetOf } from './open-test-lab.js'

const PROGRAM = fileURLToPath(new URL('../../cmd/flannelctl.js', import.meta.url))
const DAEMON = fileURLToPath(new URL('../../cmd/flanneld.js', import.meta.url))

const lab = await openTestLab(t, { name: 't-take', hosts: 2 })
const [one, two] = [lab.host(1), lab.host(2)]
const subnet = await subnetOf(one.daemon)
const directory = await mkdtemp(join(tmpdir(), 'flannel-take-'))
t.teardown(() => rm(directory, { recursive: true }))

/** A shell that stays: what it mounts is there for what enters it, and for nobody else. */
const place = spawn(
  'setpriv',
  [
    ...['--pdeathsig', 'KILL', '--'],
    ...inside(one.namespace, ['unshare', '--mount', 'sleep', '1000']),
  ],
  { stdio: 'ignore' },
)
t.teardown(() => place.kill('SIGKILL'))

/** Runs a command on the host, where /etc, /run and /var/lib are its own. */
async function onHost(...command: readonly string[]): Promise<string> {
  return await one.run(['nsenter', '--mount', `--target=${place.pid ?? 0}`, ...command], {
    timeoutMs: 100_000,
    isCombined: true,
  })
}

const sh = (script: string): Promise<string> => onHost('sh', '-c', script)

async function takeover(flag: string): Promise<string> {
  return await onHost(process.execPath, PROGRAM, 'takeover', flag).catch(
    (error: unknown) => {
      if (error instanceof CommandError) return error.stdout + error.stderr
      throw error
    },
  )
}

async function settle(address: string): Promise<void> {
  const file = `FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=${address}\nFLANNEL_MTU=1472\n`
  await sh(`mkdir -p /run/flannel && printf '${file}' > /run/flannel/subnet.env`)
}

await t.test('a host of flannel', async t => {
  await one.daemon.kill('SIGINT')
  // As stock flannel writes it.
  const key = `/coreos.com/network/subnets/${subnet.replace('/', '-')}`
  const granted = await lab.etcd.ctl('lease', 'grant', '86400')
  const id = /lease (\w+) granted/.exec(granted)?.[1] ?? ''
  await lab.etcd.ctl('put', `--lease=${id}`, key, `{"PublicIP":"${one.address}"}`)

  const flannel = join(directory, 'flanneld')
  await writeFile(flannel, '#!/bin/sh\nsleep 1000 & wait\n')
  const systemctl = join(directory, 'systemctl')
  await writeFile(
    systemctl,
    `#!/bin/sh
echo "$@" >> ${directory}/log
case "$*" in
"enable --now flannel.service")
  FLANNELD_IP_MASQ=true setsid ${flannel} --etcd-endpoints=${ETCD_ENDPOINT} -iface eth0 </dev/null >/dev/null 2>&1 &
  pid=$!
  echo 0::/system.slice/flannel.service > ${directory}/cgroup
  while [ "$(cat /proc/$pid/comm)" != flanneld ]; do sleep 0.05; done
  mount --bind ${directory}/cgroup /proc/$pid/cgroup
  echo $pid > ${directory}/flannel.pid ;;
"disable --now flannel.service")
  pid=$(cat ${directory}/flannel.pid); umount /proc/$pid/cgroup; kill $pid ;;
"enable --now --no-block flanneld.service")
  [ ! -e ${directory}/refuse ] || exit 1
  (set -a; . /etc/flannel/options.env; exec setsid ${process.execPath} ${DAEMON} --probe-rate=0) </dev/null >${directory}/daemon.log 2>&1 &
  echo $! > ${directory}/flanneld.pid ;;
"disable --now flanneld.service")
  pid=$(cat ${directory}/flanneld.pid); kill $pid 2>/dev/null
  while [ -e /proc/$pid/exe ] && readlink /proc/$pid/exe >/dev/null; do sleep 0.05; done ;;
esac
`,
  )
  for (const file of [flannel, systemctl]) await chmod(file, 0o755)
  await happens('the host has directories of its own', async () => {
    const text = await sh('readlink /proc/self/ns/mnt').catch(() => '')
    return (
      text !== '' &&
      text.trim() !== (await one.run(['readlink', '/proc/self/ns/mnt'])).trim()
    )
  })
  await sh(`mount --make-rprivate / &&
    mkdir -p /run/take && mount -t tmpfs tmpfs /run/take && mkdir /run/take/up /run/take/work &&
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/take/up,workdir=/run/take/work /etc &&
    mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /usr/local/sbin &&
    cp ${systemctl} /usr/local/sbin/systemctl`)
  t.match(await takeover('--dry-run'), /no flannel runs on this host/)
  await sh('systemctl enable --now flannel.service')
  t.match(await takeover('--dry-run'), /has not written \/run\/flannel\/subnet\.env yet/)
  await settle(subnet.replace('.0/', '.1/'))
})

await t.test('--dry-run says what would change, and changes nothing', async t => {
  const said = await takeover('--dry-run')
  t.match(
    said,
    /^flannel runs as process \d+ of flannel\.service, with the backend udp$/m,
  )
  t.match(said, `keep   the subnet ${subnet}, its device`)
  t.match(said, `FLANNELD_ETCD_ENDPOINTS=${ETCD_ENDPOINT}\n`)
  t.match(said, /FLANNELD_IFACE=eth0\n.*FLANNELD_IP_MASQ=true\n/)
  t.match(said, /stop {3}flannel\.service, and keep it from starting/)
  t.equal(
    await readFile(join(directory, 'log'), 'utf8'),
    'enable --now flannel.service\n',
  )
  t.match(await sh('ls /etc/flannel 2>&1 || true'), /No such file/)
})

await t.test('--go puts flanneld in its place', async t => {
  const said = await takeover('--go')
  t.match(said, `flanneld is ready with ${subnet}`)
  const log = (await readFile(join(directory, 'log'), 'utf8')).trim().split('\n')
  t.same(log.slice(1), [
    'disable --now flannel.service',
    'enable --now --no-block flanneld.service',
  ])
  await happens('packets flow', async () => {
    const [reached] = await two.container.ping([one.container.address])
    return reached?.received === 1
  })
  t.match(await sh('iptables-save -t nat'), 'FLANNEL-POSTRTG', 'its settings count')
  t.match(await takeover('--dry-run'), /no flannel runs on this host/)
})

await t.test('--back is the way back', async t => {
  t.equal(await takeover('--back'), 'flannel.service runs again\n')
  t.notMatch(await sh('ip link; iptables-save'), /flannel0|FLANNEL/)
  t.match(await sh('ls /etc/flannel'), /^$/, 'settings are as they were')
  const records = await lab.etcd.ctl('get', '--prefix', '/coreos.com/network/subnets/')
  t.match(records, subnet.replace('/', '-'), 'etcd knows the host')
  t.match(await takeover('--back'), /nothing was taken over on this host/)
  await settle(subnet.replace('.0/', '.1/'))
  t.match(await takeover('--dry-run'), /flannel runs as process \d+ of flannel\.service/)
})

await t.test('what does not go well is taken back', async t => {
  await writeFile(join(directory, 'refuse'), '')
  const said = await takeover('--go')
  t.match(said, /it was taken back, and flannel\.service runs again: .*exit code 1/)
  t.match(await sh('ls /etc/flannel'), /^$/, 'settings are as they were')
  await settle(subnet.replace('.0/', '.1/'))
  t.match(await takeover('--dry-run'), /flannel runs as process \d+ of flannel\.service/)
})

await t.test('usage', async t => {
  t.match(await takeover('--json'), /takes one of --dry-run, --go and --back/)
})
