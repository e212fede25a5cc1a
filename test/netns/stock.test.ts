/**
 * Beside a host of the old kind, and back to it: a relay that carries one packet
 * with each call, on a device that it opens and addresses as flannel does.
 *
 *   one: flanneld        two: flanneld, then the relay, then flanneld again
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { measureTcp } from '../../cmd/flannelctl/lab/throughput.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { run } from '../../lib/linux/run.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { isRunning, openTestLab, pathOf, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const RELAY = fileURLToPath(new URL('../../../bench/relay.c', import.meta.url))
const PORT = '8285'

const lab = await openTestLab(t, { name: 't-stock', hosts: 2 })
const [one, two] = [lab.host(1), lab.host(2)]
const [subnet, remote] = [await subnetOf(two.daemon), await subnetOf(one.daemon)]

async function expectPassing(): Promise<void> {
  await waitFor('packets pass', async () => {
    const [result] = await one.container.ping([two.container.address], { timeoutMs: 500 })
    return result?.received === 1
  })
}

/** Chains and rules, without the times and counters that iptables-save prints. */
async function forwardRules(): Promise<string> {
  const text = await two.run(['iptables-save', '-t', 'filter'])
  return text
    .split('\n')
    .filter(line => /^[-:]/.test(line))
    .map(line => line.replace(/ \[\d+:\d+\]$/, ''))
    .join('\n')
}

t.test('cleanup refuses while the daemon runs', async t => {
  const { exitCode, stderr } = await flannelctl(two, ['cleanup'])

  t.equal(exitCode, 1)
  t.match(stderr, /flanneld runs on this host; stop it first/)
})

t.test("cleanup for another prefix leaves a daemon's own alone", async t => {
  const before = [await two.run(['ip', 'route', 'show']), await forwardRules()]

  const { exitCode, stdout } = await flannelctl(two, ['cleanup', '--etcd-prefix=/other'])

  t.equal(exitCode, 0)
  t.equal(stdout, 'nothing of flanneld is left here\n')
  t.strictSame([await two.run(['ip', 'route', 'show']), await forwardRules()], before)
  t.ok(existsSync(two.daemon.subnetFile))
})

t.test('cleanup leaves nothing of ours, and all of others', async t => {
  const { pid } = await pathOf(two.daemon)
  await two.daemon.kill('SIGTERM')
  await two.run(['iptables', '-A', 'FORWARD', '-s', '203.0.113.0/24', '-j', 'ACCEPT'])
  await expectPassing()

  const dry = await flannelctl(two, ['cleanup', '--dry-run'])
  t.equal(dry.exitCode, 0)
  t.match(dry.stdout, new RegExp(`would remove the packet path \\(process ${pid}\\)`))
  t.match(dry.stdout, /would remove our rules in iptables-nft filter FLANNEL-FWD/)
  t.match(dry.stdout, `would remove ${two.daemon.subnetFile}`)
  t.ok(isRunning(pid), 'and nothing was')

  const done = await flannelctl(two, ['cleanup'])
  t.equal(done.exitCode, 0, done.stderr)
  t.equal(done.stdout, dry.stdout.replaceAll('would remove', 'removed'))
  await waitFor('the path ends', () => !isRunning(pid))
  t.notMatch(await two.run(['ip', 'link', 'show']), /flannel0/)
  t.notMatch(await forwardRules(), /FLANNEL/)
  t.match(await forwardRules(), /203\.0\.113\.0/)
  t.notOk(existsSync(two.daemon.subnetFile))

  const again = await flannelctl(two, ['cleanup'])
  t.strictSame(again, {
    exitCode: 0,
    stdout: 'nothing of flanneld is left here\n',
    stderr: '',
  })
})

t.test('a host of the old kind carries packets, at its own speed', async t => {
  const directory = t.testdir()
  const program = join(directory, 'relay')
  await run('gcc', ['-O2', '-o', program, RELAY], { timeoutMs: 60_000 })
  const key = `/coreos.com/network/subnets/${subnet.replace('/', '-')}`
  const granted = await lab.etcd.ctl('lease', 'grant', '3600')
  const [, lease = ''] = /lease (\w+) granted/.exec(granted) ?? []
  const record = `{"PublicIP":"${two.address}"}`
  await lab.etcd.ctl('put', `--lease=${lease}`, key, record)

  const command = [program, 'flannel%d', two.address, PORT, `${remote}=${one.address}`]
  const log = join(directory, 'relay.log')
  const relay = new LabProcess({
    namespace: two.namespace,
    command,
    log,
    outlive: false,
  })
  t.teardown(() => relay.end('SIGKILL'))
  await waitFor('it has its device', async () =>
    (await two.run(['ip', '-brief', 'link', 'show'])).includes('flannel0'),
  )
  const network = `${subnet.replace(/\/.*/, '')}/16`
  await two.run(['ip', 'address', 'add', network, 'dev', 'flannel0'])
  await two.run(['ip', 'link', 'set', 'flannel0', 'mtu', '1472', 'up'])
  await two.run(['ip', 'route', 'replace', '10.5.0.0/16', 'dev', 'flannel0'])
  await two.run(['iptables', '-P', 'FORWARD', 'ACCEPT'])

  await expectPassing()
  for (const [from, to] of [
    [one, two],
    [two, one],
  ] as const) {
    const { bitsPerSecond } = await measureTcp(from.container, to.container, 1)
    const rate = `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`
    t.ok(bitsPerSecond > 1e6, `${from.name} to ${to.name}: ${rate}`)
  }
  const [whole] = await one.container.ping([two.container.address], {
    packetBytes: 1472,
    dontFragment: true,
  })
  t.equal(whole?.received, 1)
  t.strictSame((await pathOf(one.daemon)).drops, {})
})

t.test('and the daemon takes its place again, with its subnet', async t => {
  await two.daemon.start()

  t.equal(await subnetOf(two.daemon), subnet)
  await expectPassing()
  const key = `/coreos.com/network/subnets/${subnet.replace('/', '-')}`
  t.match(await lab.etcd.ctl('get', key), /"HostID":"\w{16}"/)
})
