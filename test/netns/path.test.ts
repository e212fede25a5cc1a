/**
 * The packet path between two kernels, with IPv4 and IPv6 inside and outside:
 *
 *   h1 eth0 ───────── eth0 h2
 *
 * Each host has an overlay address of its own on lo, as a container would.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { askDaemon } from '../../cmd/flannelctl/daemon-status.js'
import {
  ipInside,
  makeNamespaces,
  removeNamespaces,
  runInside,
} from '../../cmd/flannelctl/lab/namespaces.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { parseVariables } from '../../lib/subnet/subnet-env.js'
import { DEADLINE_MS, happens } from './open-test-lab.js'
import type { PathStatus } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const PROGRAM = new URL('../../cmd/flanneld.js', import.meta.url).pathname
const ETCD = 'http://192.0.2.1:2379'
const SIDES = [1, 2] as const
type Side = (typeof SIDES)[number]

interface Pair {
  readonly variables: readonly ReadonlyMap<string, string>[]
  inside(side: Side, ...command: readonly string[]): Promise<string>
  /** This host's own overlay address of a family. */
  addressOf(side: Side, family: 4 | 6): string
  path(side: Side): Promise<PathStatus>
  /** TCP from host 1 to host 2. Returns Mbit/s. */
  transfer(family: 4 | 6, ...flags: readonly string[]): Promise<number>
}

async function openPair(t: Test, name: string, config: object): Promise<Pair> {
  const namespaces = SIDES.map(side => `t-path-${name}-h${side}`)
  const namespaceOf = (side: Side): string => namespaces[side - 1] ?? ''
  const directory = t.testdir()
  const runs = mkdtempSync(join(tmpdir(), 'path-'))
  const processes: LabProcess[] = []
  await removeNamespaces(namespaces)
  await makeNamespaces(namespaces)
  t.teardown(async () => {
    for (const each of processes.reverse()) await each.end('SIGINT')
    await removeNamespaces(namespaces)
    rmSync(runs, { recursive: true })
  })
  const [first = '', second = ''] = namespaces
  await ipInside(first, [`link add eth0 type veth peer name eth0 netns ${second}`])
  for (const side of SIDES)
    await ipInside(namespaceOf(side), [
      'link set lo up',
      `address add 192.0.2.${side}/24 dev eth0`,
      `address add 2001:db8::${side}/64 dev eth0 nodad`,
      'link set eth0 up',
    ])
  const inside = async (side: Side, ...command: readonly string[]): Promise<string> =>
    await runInside(namespaceOf(side), command, {
      timeoutMs: 30_000,
      environment: { ETCDCTL_API: '3' },
    })
  const start = (side: Side, program: string, command: readonly string[]): void => {
    const log = join(directory, `${program}-${side}.log`)
    const options = { namespace: namespaceOf(side), command, log, outlive: false }
    processes.push(new LabProcess(options))
  }
  start(1, 'etcd', [
    'etcd',
    `--data-dir=${directory}/etcd`,
    `--listen-client-urls=${ETCD}`,
    `--advertise-client-urls=${ETCD}`,
    '--listen-peer-urls=http://127.0.0.1:2380',
  ])
  const put = ['put', '/coreos.com/network/config', JSON.stringify(config)]
  await happens('etcd answers', async () => {
    const done = inside(1, 'etcdctl', `--endpoints=${ETCD}`, ...put)
    return await done.then(
      () => true,
      () => false,
    )
  })
  const flagsOf = (side: Side) => ({
    'etcd-prefix': '/coreos.com/network',
    'subnet-file': `${directory}/${side}/subnet.env`,
    'state-dir': `${directory}/${side}/state`,
    // Names of sockets are short.
    'run-dir': join(runs, String(side)),
  })
  for (const side of SIDES) {
    await mkdir(`${directory}/${side}`)
    const places = Object.entries(flagsOf(side)).map(
      ([flag, value]) => `--${flag}=${value}`,
    )
    const etcd = `--etcd-endpoints=${ETCD}`
    start(side, 'flanneld', [process.execPath, PROGRAM, '--iface=eth0', etcd, ...places])
  }
  const variables = await Promise.all(
    SIDES.map(async side =>
      waitFor(
        'the subnet file',
        async () =>
          await readFile(flagsOf(side)['subnet-file'], 'utf8').then(
            text => parseVariables(text),
            () => undefined,
          ),
        2 * DEADLINE_MS,
      ),
    ),
  )
  const addressOf = (side: Side, family: 4 | 6): string => {
    const variable = family === 4 ? 'FLANNEL_SUBNET' : 'FLANNEL_IPV6_SUBNET'
    return (variables[side - 1]?.get(variable) ?? '').replace(/\/\d+$/, '')
  }
  for (const side of SIDES)
    for (const family of [4, 6] as const) {
      const address = addressOf(side, family)
      const length = family === 4 ? 32 : 128
      if (address === '') continue
      await ipInside(namespaceOf(side), [
        `address add ${address}/${length} dev lo ${family === 6 ? 'nodad' : ''}`,
      ])
    }
  const path = async (side: Side): Promise<PathStatus> => {
    const status = await askDaemon(flagsOf(side))
    return (status?.backend as unknown as { path: PathStatus }).path
  }
  const transfer = async (
    family: 4 | 6,
    ...flags: readonly string[]
  ): Promise<number> => {
    start(2, 'iperf3', [
      'iperf3',
      '--server',
      '--one-off',
      `--bind=${addressOf(2, family)}`,
    ])
    const client = ['iperf3', '--json', '--time=1', `--bind=${addressOf(1, family)}`]
    const to = `--client=${addressOf(2, family)}`
    // A client that is faster than the server says so in a result without figures.
    return await waitFor('a transfer', async () => {
      const text = await inside(1, ...client, to, ...flags).catch(() => '{}')
      const { end } = JSON.parse(text) as {
        end?: {
          sum_received?: { bits_per_second: number }
          sum?: { bits_per_second: number }
        }
      }
      const bits = (end?.sum_received ?? end?.sum)?.bits_per_second ?? 0
      return bits > 0 ? bits / 1e6 : undefined
    })
  }
  return { variables, inside, addressOf, path, transfer }
}

async function reaches(
  pair: Pair,
  family: 4 | 6,
  size: number,
  more: string[] = [],
): Promise<boolean> {
  const [from, to] = [pair.addressOf(1, family), pair.addressOf(2, family)]
  const payload = size - (family === 4 ? 28 : 48)
  const command = [
    'ping',
    '-c',
    '1',
    '-W',
    '2',
    '-s',
    String(payload),
    ...more,
    '-I',
    from,
    to,
  ]
  return await pair.inside(1, ...command).then(
    () => true,
    () => false,
  )
}

const DUAL = {
  Network: '10.5.0.0/16',
  EnableIPv6: true,
  IPv6Network: 'fd00:5::/48',
}

t.test('packets of both families travel in IPv4', async t => {
  const pair = await openPair(t, 'dual', DUAL)
  const mtu = Number(pair.variables[0]?.get('FLANNEL_MTU'))
  t.equal(mtu, 1472)
  for (const family of [4, 6] as const) {
    await happens(`IPv${family} passes`, () => reaches(pair, family, 100))
    t.ok(await reaches(pair, family, mtu, ['-M', 'do']), 'a packet of the MTU')
    t.notOk(await reaches(pair, family, mtu + 1, ['-M', 'do']), 'and not of one more')
    t.ok(await reaches(pair, family, 4000), 'in pieces')
  }

  await t.test('TCP goes in super-packets, and batching engages', async t => {
    for (const family of [4, 6] as const) {
      const before = [await pair.path(1), await pair.path(2)] as const
      const rate = await pair.transfer(family)
      const after = [await pair.path(1), await pair.path(2)] as const
      const grown = (side: Side, counter: string): number =>
        (after[side - 1]?.traffic[counter] ?? 0) -
        (before[side - 1]?.traffic[counter] ?? 0)
      t.comment(`IPv${family}: ${rate.toFixed(0)} Mbit/s`)
      const perSend = grown(1, 'sentPackets') / grown(1, 'sendCalls')
      const perWrite = grown(2, 'receivedPackets') / grown(2, 'tunWrites')
      t.ok(grown(1, 'cutPackets') > 100, `${grown(1, 'cutPackets')} super-packets cut`)
      t.ok(perSend > 5, `${perSend.toFixed(1)} packets with each send`)
      t.ok(perWrite > 3, `${perWrite.toFixed(1)} packets with each write`)
      t.equal(grown(1, 'gsoFallbacks'), 0)
    }
    t.strictSame([(await pair.path(1)).drops, (await pair.path(2)).drops], [{}, {}])
  })

  await t.test('small datagrams go many at a time', async t => {
    const before = await pair.path(1)
    await pair.transfer(4, '--udp', '--bitrate=0', '--length=64')
    const { traffic } = await pair.path(1)
    const sent = (traffic['sentPackets'] ?? 0) - (before.traffic['sentPackets'] ?? 0)
    const calls = (traffic['sendCalls'] ?? 0) - (before.traffic['sendCalls'] ?? 0)
    t.ok(sent / calls > 2, `${(sent / calls).toFixed(1)} packets with each send`)
  })

  await t.test(
    'a way that takes less than it should is gone without UDP_SEGMENT',
    async t => {
      await pair.inside(
        1,
        'ip',
        'route',
        'add',
        '192.0.2.2/32',
        'dev',
        'eth0',
        'mtu',
        '1300',
      )
      const rate = await pair.transfer(4)
      t.comment(`${rate.toFixed(0)} Mbit/s`)
      t.ok(rate > 1, 'TCP goes on')
      const { traffic } = await pair.path(1)
      t.ok((traffic['gsoFallbacks'] ?? 0) > 0)
      t.notOk(
        await reaches(pair, 4, 1400, ['-M', 'do']),
        'a sender of long packets is told',
      )
      t.ok(await reaches(pair, 4, 1400, ['-M', 'dont']), 'what may be cut passes')
    },
  )
})

t.test('a network of IPv6 alone travels in IPv6', async t => {
  const { IPv6Network } = DUAL
  const config = { EnableIPv4: false, EnableIPv6: true, IPv6Network }
  const pair = await openPair(t, 'six', config)
  const mtu = Number(pair.variables[0]?.get('FLANNEL_MTU'))
  t.equal(mtu, 1452)
  await happens('it passes', () => reaches(pair, 6, 100))
  t.ok(await reaches(pair, 6, mtu, ['-M', 'do']), 'a packet of the MTU')
  const rate = await pair.transfer(6)
  t.comment(`${rate.toFixed(0)} Mbit/s`)
  const { traffic, drops } = await pair.path(1)
  t.ok((traffic['cutPackets'] ?? 0) > 100)
  t.strictSame(drops, {})
})
