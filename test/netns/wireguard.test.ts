/**
 * Two hosts on WireGuard. Where the kernel has none, as on the machines that these
 * tests are made for, the devices are wireguard-go's.
 */
import { readFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { pidsInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { startPing } from '../../cmd/flannelctl/lab/ping.js'
import { CommandError } from '../../lib/linux/run.js'
import { expectRepair } from './drift.js'
import { DUAL, type Side, openPair, reaches, passes } from './open-pair.js'
import { waitFor } from '../helpers/wait-for.js'

const ETCD = '--endpoints=http://192.0.2.1:2379'
const PREFIX = '/coreos.com/network'
const WIREGUARD = { ...DUAL, Backend: { Type: 'wireguard' } }

const pair = await openPair(t, 'wg', WIREGUARD, {
  ownDirectories: ['/run/wireguard', '/run/flannel'],
})

const run = (side: Side, line: string): Promise<string> =>
  pair.inside(side, ...line.split(' '))

interface Status {
  readonly publicKey: string
  readonly carriedBy: string
  readonly devices: readonly unknown[]
}
const status = async (side: Side): Promise<Status> =>
  (await pair.backend(side)) as unknown as Status

/** What an operator sees, also when something is wrong. */
async function statusText(): Promise<string> {
  return await pair.flannelctl(1, 'status').catch((error: unknown) => {
    if (error instanceof CommandError) return error.stdout
    throw error
  })
}

async function everybodyReaches(): Promise<void> {
  for (const family of [4, 6] as const) await passes(pair, family)
}

/** Pings from host 1 to 2 as long as `act` takes. Returns how many were lost. */
async function lostWhile(act: () => Promise<unknown>): Promise<number> {
  const traffic = startPing(pair.namespaceOf(1), [pair.addressOf(2, 4)], {
    count: 60_000,
    // wireguard-go and its device keep some hundreds while it does not run.
    intervalMs: 10,
  })
  await act()
  const [result] = await traffic.stop()
  return (result?.sent ?? 0) - (result?.received ?? 0)
}

const subnet = (side: Side, family: 4 | 6): string =>
  family === 4
    ? pair.addressOf(side, 4).replace(/1$/, '0/24')
    : pair.addressOf(side, 6).replace(/1$/, '/64')

t.test('packets of both families pass, each on a device of its own', async t => {
  await everybodyReaches()
  t.equal(pair.variables[0]?.get('FLANNEL_MTU'), '1420')
  for (const family of [4, 6] as const) {
    t.ok(await reaches(pair, family, 1420, ['-M', 'do']), 'a packet of the MTU')
    t.notOk(await reaches(pair, family, 1421, ['-M', 'do']), 'and none that is larger')
    const rate = await pair.transfer(family)
    t.ok(rate > 1, `IPv${family}: ${rate.toFixed(0)} Mbit/s`)
  }
})

t.test("the record and the devices are flannel's", async t => {
  const { publicKey, devices, carriedBy } = await status(2)
  t.match(devices, [
    { name: 'flannel-wg', listenPort: 51820 },
    { name: 'flannel-wg-v6', listenPort: 51821 },
  ])
  t.match(carriedBy, /^(kernel|wireguard-go)$/)
  t.match(
    await statusText(),
    `wireguard on flannel-wg, MTU 1420, carried by ${carriedBy}`,
  )

  const get = `etcdctl ${ETCD} get --prefix ${PREFIX}/subnets/ --print-value-only`
  t.match(
    await run(1, get),
    `"BackendType":"wireguard","BackendData":{"PublicKey":"${publicKey}","Port":51820},"BackendV6Data":{"PublicKey":"${publicKey}","Port":51821}`,
  )
  const peer = async (device: string): Promise<string[]> => {
    const [, line = ''] = (await run(1, `wg show ${device} dump`)).split('\n')
    const [key = '', , endpoint = '', allowed = ''] = line.split('\t')
    return [key, endpoint, allowed]
  }
  t.strictSame(await peer('flannel-wg'), [publicKey, '192.0.2.2:51820', subnet(2, 4)])
  t.strictSame(await peer('flannel-wg-v6'), [
    publicKey,
    '[2001:db8::2]:51821',
    subnet(2, 6),
  ])
  t.match(
    await run(1, 'ip route show proto 76'),
    /^10\.5\.0\.0\/16 dev flannel-wg .*\nunreachable 10\.5\.0\.0\/16 metric 4278198272 $/m,
  )
})

t.test('what others change is put right', async t => {
  const state = async (): Promise<string> => {
    const shown = await run(1, 'wg show flannel-wg dump').catch(() => '')
    const peers = shown.split('\n').slice(1)
    const fields = peers.map(line => line.split('\t').slice(0, 4).join(' '))
    const addresses = await run(1, 'ip -brief address show dev flannel-wg').catch(
      () => '',
    )
    return [...fields, addresses, await run(1, 'ip route show proto 76')].join('\n')
  }
  const right = await state()
  const { publicKey } = await status(2)
  for (const [what, line] of [
    ['the route deleted', 'ip route delete 10.5.0.0/16 dev flannel-wg'],
    ['the refusal deleted', 'ip route delete unreachable 10.5.0.0/16'],
    ['the address deleted', 'ip address flush dev flannel-wg'],
    ['the device down', 'ip link set flannel-wg down'],
    ['the device deleted', 'ip link delete flannel-wg'],
  ] as const)
    await expectRepair(t, [what, () => run(1, line)], state, right)
  // WireGuard tells nobody of these: a look every ten seconds finds them.
  await run(1, `wg set flannel-wg peer ${publicKey} remove`)
  await run(1, 'wg set flannel-wg-v6 listen-port 4444')
  await waitFor('the peer is there again', async () => (await state()) === right, 100_000)
  await everybodyReaches()
})

t.test('without its device a host sends nothing in the clear', async () => {
  await pair.stop(1, 'SIGKILL')
  for (const pid of await processesOf(1, 'wireguard-go')) process.kill(pid, 'SIGKILL')
  await run(1, 'ip link delete flannel-wg').catch(() => '')
  await waitFor('there is no way', async () => {
    const way = await run(1, `ip route get ${pair.addressOf(2, 4)}`).catch(String)
    return /No route to host|unreachable/.test(way)
  })
  await pair.restart(1, 'SIGKILL', [])
  await everybodyReaches()
})

t.test('a route that leads past the devices is a trouble', async () => {
  const destination = subnet(2, 4).replace('.0/24', '.128/25')
  await run(1, `ip route add ${destination} via 192.0.2.2 dev eth0`)
  const told = `would leave unencrypted: the route ${destination} dev eth0 leads past WireGuard`
  await waitFor('it is told', async () => (await statusText()).includes(told))
  await run(1, `ip route delete ${destination} dev eth0`)
  await waitFor('and no longer', async () => !(await statusText()).includes(told))
})

t.test('a rule that leads containers past the devices is a trouble', async () => {
  const own = pair.addressOf(1, 4).replace(/1$/, '0/24')
  await run(1, 'ip route add default via 192.0.2.2 table 99')
  await run(1, `ip rule add from ${own} lookup 99`)
  // No event of ip monitor tells of a rule: the next look finds it.
  await waitFor(
    'it is told',
    async () => (await statusText()).includes('leave unencrypted: the way to'),
    60_000,
  )
  await run(1, `ip rule delete from ${own} lookup 99`)
  await run(1, 'ip route delete default via 192.0.2.2 table 99')
  await waitFor(
    'and no longer',
    async () => !(await statusText()).includes('unencrypted'),
    60_000,
  )
})

t.test('what comes in the clear goes no further', async t => {
  const [from, to] = [pair.addressOf(1, 4), pair.addressOf(2, 4)]
  const dropped = async (): Promise<number> => {
    const { verified } = await pair.backend(2)
    return (verified as { drops: Record<string, number> }).drops['wrongSource'] ?? 0
  }
  const before = await dropped()
  await run(1, `ip route add ${to}/32 via 192.0.2.2 dev eth0`)
  await run(1, `ping -c 1 -W 1 -I ${from} ${to}`).catch(() => '')
  await run(1, `ip route delete ${to}/32`)
  const counted = await waitFor('it is counted', async () => {
    const now = await dropped()
    return now !== before && now
  })
  t.equal(counted, before + 1)
})

t.test('a peer that sends from another port is believed', async t => {
  await everybodyReaches()
  const endpoint = async (): Promise<string> =>
    (await run(1, 'wg show flannel-wg endpoints')).trim().split('\t')[1] ?? ''
  t.equal(await endpoint(), '192.0.2.2:51820')
  // As behind a NAT: the record says one port, packets come from another.
  await pair.stop(2, 'SIGTERM')
  await run(2, 'wg set flannel-wg listen-port 40000')
  const [from, to] = [pair.addressOf(2, 4), pair.addressOf(1, 4)]
  await waitFor('it has moved', async () => {
    await run(2, `ping -c 1 -W 1 -I ${from} ${to}`).catch(() => '')
    return (await endpoint()) === '192.0.2.2:40000'
  })
  await pair.restart(1, 'SIGTERM', [])
  await passes(pair, 4)
  t.equal(await endpoint(), '192.0.2.2:40000', 'after a restart, too')
  await pair.restart(2, 'SIGKILL', [])
  await everybodyReaches()
})

t.test('a restart of the daemon loses nothing', async t => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const lost = await lostWhile(() => pair.restart(1, signal, []))
    t.equal(lost, 0, `${signal}: ${lost} lost`)
  }
})

t.test('a new key of a peer is learnt', async t => {
  const { publicKey } = await status(2)
  await pair.stop(2, 'SIGTERM')
  await removeKey(2)
  await pair.restart(2, 'SIGKILL', [])
  t.not((await status(2)).publicKey, publicKey)
  await everybodyReaches()
})

t.test('a new address of a peer is learnt', async () => {
  await run(2, 'ip address add 192.0.2.22/24 dev eth0')
  await pair.restart(2, 'SIGTERM', ['--public-ip=192.0.2.22'])
  await waitFor('the peer has its new endpoint', async () =>
    (await run(1, 'wg show flannel-wg endpoints')).includes('192.0.2.22:51820'),
  )
  await everybodyReaches()
  await pair.restart(2, 'SIGTERM', [])
  await everybodyReaches()
})

/** The private key of a host, which it makes anew. */
async function removeKey(side: Side): Promise<void> {
  await pair.inside(side, 'sh', '-c', `rm "${pair.stateOf(side)}"/*/*/wireguard-key`)
}

async function processesOf(side: Side, name: string): Promise<number[]> {
  const pids = await pidsInside(pair.namespaceOf(side))
  const names = await Promise.all(
    pids.map(pid => readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')),
  )
  return pids.filter((_, index) => names[index]?.trim() === name)
}

async function configure(t: Test, backend: object): Promise<void> {
  const config = JSON.stringify({ ...DUAL, Backend: backend })
  await pair.inside(1, 'etcdctl', ETCD, 'put', `${PREFIX}/config`, config)
  await Promise.all(([1, 2] as const).map(side => pair.restart(side, 'SIGTERM', [])))
  await everybodyReaches()
  t.pass(config)
}

t.test('one device for both families, with a preshared key', async t => {
  const psk = (await run(1, 'wg genpsk')).trim()
  await configure(t, {
    Type: 'wireguard',
    Mode: 'ipv6',
    PSK: psk,
    ListenPort: 5555,
    PersistentKeepaliveInterval: 7,
    MTU: 1400,
  })
  t.equal((await pair.environment(1)).get('FLANNEL_MTU'), '1320')
  const { publicKey } = await status(2)
  const peer = (await run(1, 'wg show flannel-wg dump')).split('\n')[1]?.split('\t') ?? []
  t.strictSame(
    [peer[0], peer[1], peer[2], peer[3], peer[7]],
    [publicKey, psk, '[2001:db8::2]:5555', `${subnet(2, 4)},${subnet(2, 6)}`, '7'],
  )
  await waitFor(
    'the other device is gone',
    async () => !(await run(1, 'ip -brief link')).includes('flannel-wg-v6'),
  )
  const log = (await pair.log(1)) + JSON.stringify(await pair.backend(1))
  t.notMatch(log, psk, 'it is told nowhere')

  await configure(t, { Type: 'wireguard', Mode: 'ipv4' })
  const plain = (await run(1, 'wg show flannel-wg dump')).split('\n')[1]?.split('\t')
  t.match(plain?.slice(1, 3), ['(none)', /^192\.0\.2\.22?:51820$/])
})

t.test("flannel's device and key are taken over", async t => {
  await pair.restart(2, 'SIGTERM', [])
  await pair.stop(2, 'SIGINT')
  t.notMatch(await run(2, 'ip -brief link'), 'flannel-wg', 'SIGINT ends the device')
  const key = (await run(2, 'wg genkey')).trim()
  const device = `
    set -e
    echo ${key} > /run/flannel/wgkey
    ip link add flannel-wg type wireguard 2>/dev/null || wireguard-go flannel-wg
    wg set flannel-wg listen-port 51820 private-key /run/flannel/wgkey
    ip address add ${subnet(2, 4).replace('/24', '/32')} dev flannel-wg
    ip link set flannel-wg up mtu 1420
    ip route add 10.5.0.0/16 dev flannel-wg scope link`
  await pair.inside(2, 'sh', '-c', device)
  await removeKey(2)
  const index = (): Promise<string> =>
    run(2, 'cat /sys/class/net/flannel-wg/ifindex').catch(String)
  const before = (await run(2, 'ip -brief link show flannel-wg')) + (await index())

  await pair.restart(2, 'SIGKILL', [])

  await everybodyReaches()
  t.equal((await run(2, 'ip -brief link show flannel-wg')) + (await index()), before)
  const publicKey = await pair.inside(2, 'sh', '-c', `echo ${key} | wg pubkey`)
  t.equal((await status(2)).publicKey, publicKey.trim())
})

t.test('flannelctl finds every way right', async t => {
  const { exitCode } = await pair.flannelctl(1, 'routes').then(
    () => ({ exitCode: 0 }),
    (error: unknown) => ({
      exitCode: error instanceof CommandError ? error.exitCode : -1,
    }),
  )
  t.equal(exitCode, 0)
})

t.test('a subnet that is given up does not leave in the clear', async t => {
  await pair.stop(1, 'SIGINT')
  t.notMatch(await run(1, 'ip -brief link'), 'flannel')
  t.match(await run(1, 'ip route show proto 76'), /^unreachable 10\.5\.0\.0\/16 /)
  await pair.restart(1, 'SIGKILL', [])
  await everybodyReaches()
})

t.test('cleanup removes devices, routes and the process', async t => {
  await pair.stop(1, 'SIGTERM')
  await pair.flannelctl(1, 'cleanup')
  t.equal(await run(1, 'ip route show proto 76'), '')
  t.equal(await run(1, 'ip -6 route show proto 76'), '')
  t.notMatch(await run(1, 'ip -brief link'), 'flannel')
})
