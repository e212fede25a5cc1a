/**
 * Two hosts with a daemon each, IPv4 and IPv6 inside and outside:
 *
 *   h1 eth0 ───────── eth0 h2
 *
 * Each host has an overlay address of its own on lo, as a container would.
 */
import { readFileSync } from 'node:fs'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type DaemonStatus, askDaemon } from '../../cmd/flannelctl/daemon-status.js'
import {
  ipInside,
  makeNamespaces,
  removeNamespaces,
  runInside,
  withMounts,
} from '../../cmd/flannelctl/lab/namespaces.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { parseVariables } from '../../lib/subnet/subnet-env.js'
import type { PathStatus } from './open-test-lab.js'
import { ownDirectory } from '../helpers/own-directory.js'
import { tellLogs } from '../helpers/tell-logs.js'
import { waitFor } from '../helpers/wait-for.js'

const PROGRAM = new URL('../../cmd/flanneld.js', import.meta.url).pathname
const FLANNELCTL = new URL('../../cmd/flannelctl.js', import.meta.url).pathname
const ETCD = 'http://192.0.2.1:2379'
export const SIDES = [1, 2] as const
export type Side = (typeof SIDES)[number]

export interface Pair {
  /** Where its processes write. */
  readonly directory: string
  namespaceOf(side: Side): string
  /** Its --state-dir. */
  stateOf(side: Side): string
  readonly variables: readonly ReadonlyMap<string, string>[]
  inside(side: Side, ...command: readonly string[]): Promise<string>
  /** This host's own overlay address of a family. */
  addressOf(side: Side, family: 4 | 6): string
  path(side: Side): Promise<PathStatus>
  /** What its daemon says of itself. */
  status(side: Side): Promise<DaemonStatus>
  /** What its daemon says of its backend. */
  backend(side: Side): Promise<Readonly<Record<string, unknown>>>
  stop(side: Side, signal: NodeJS.Signals): Promise<void>
  /** The subnet file as it is now. */
  environment(side: Side): Promise<ReadonlyMap<string, string>>
  /** What the daemon has said. */
  log(side: Side): Promise<string>
  /** Runs flannelctl with the flags of that host's daemon. */
  flannelctl(side: Side, ...args: readonly string[]): Promise<string>
  /** Runs flannelctl watch there. */
  watch(side: Side): { text(): string; interrupt(): Promise<number | null> }
  /** Ends a daemon and starts it with other flags. Resolves when it is ready. */
  restart(side: Side, signal: NodeJS.Signals, flags: readonly string[]): Promise<void>
  /** TCP from host 1 to host 2. Returns Mbit/s. */
  transfer(family: 4 | 6, ...flags: readonly string[]): Promise<number>
}

export interface PairOptions {
  readonly underlayMtu?: number
  /** Of both daemons. */
  readonly flags?: readonly string[]
  /** Directories that each host has for itself, as two machines do: empty at first. */
  readonly ownDirectories?: readonly string[]
}

export async function openPair(
  t: Test,
  name: string,
  config: object,
  { underlayMtu = 1500, flags = [], ownDirectories = [] }: PairOptions = {},
): Promise<Pair> {
  const namespaces = SIDES.map(side => `t-path-${name}-h${side}`)
  const namespaceOf = (side: Side): string => namespaces[side - 1] ?? ''
  const directory = ownDirectory(t)
  const processes: LabProcess[] = []
  await removeNamespaces(namespaces)
  await makeNamespaces(namespaces)
  const logOf = (side: Side): string => join(directory, `flanneld-${side}.log`)
  t.teardown(async () => {
    await tellLogs(t, SIDES.map(logOf))
    for (const each of processes.reverse()) await each.end('SIGINT')
    await removeNamespaces(namespaces)
  })
  const [first = '', second = ''] = namespaces
  await ipInside(first, [
    `link add eth0 mtu ${underlayMtu} type veth peer name eth0 mtu ${underlayMtu} netns ${second}`,
  ])
  for (const side of SIDES)
    await ipInside(namespaceOf(side), [
      'link set lo up',
      `address add 192.0.2.${side}/24 dev eth0`,
      `address add 2001:db8::${side}/64 dev eth0 nodad`,
      'link set eth0 up',
    ])
  const amongMounts = (side: Side, command: readonly string[]): readonly string[] =>
    ownDirectories.length === 0
      ? command
      : withMounts(
          ownDirectories.map(at => ({ from: `${directory}/${side}${at}`, at })),
          command,
        )
  const inside = async (side: Side, ...command: readonly string[]): Promise<string> =>
    await runInside(namespaceOf(side), amongMounts(side, command), {
      environment: ETCDCTL_ENVIRONMENT,
    })
  const start = (side: Side, program: string, words: readonly string[]): LabProcess => {
    const log = join(directory, `${program}-${side}.log`)
    const command = amongMounts(side, words)
    const options = { namespace: namespaceOf(side), command, log, outlive: false }
    const started = new LabProcess(options)
    processes.push(started)
    return started
  }
  start(1, 'etcd', [
    'etcd',
    `--data-dir=${directory}/etcd`,
    `--listen-client-urls=${ETCD}`,
    `--advertise-client-urls=${ETCD}`,
    '--listen-peer-urls=http://127.0.0.1:2380',
  ])
  const put = ['put', '/coreos.com/network/config', JSON.stringify(config)]
  await waitFor('etcd answers', async () => {
    await inside(1, 'etcdctl', `--endpoints=${ETCD}`, ...put)
    return true
  })
  const flagsOf = (side: Side) => ({
    'etcd-prefix': '/coreos.com/network',
    'subnet-file': `${directory}/${side}/subnet.env`,
    'state-dir': `${directory}/${side}/state`,
    'run-dir': `${directory}/${side}/run`,
  })
  const daemons = new Map<Side, LabProcess>()
  const startDaemon = (side: Side, more: readonly string[]): void => {
    const places = Object.entries(flagsOf(side)).map(
      ([flag, value]) => `--${flag}=${value}`,
    )
    // Whoever counts packets counts his own.
    const common = [
      '--probe-rate=0',
      '--iface=eth0',
      `--etcd-endpoints=${ETCD}`,
      ...places,
    ]
    const command = [process.execPath, PROGRAM, ...common, ...more]
    daemons.set(side, start(side, 'flanneld', command))
  }
  for (const side of SIDES) {
    await mkdir(`${directory}/${side}`, { recursive: true })
    startDaemon(side, flags)
  }
  const variables = await Promise.all(
    SIDES.map(async side =>
      waitFor('the subnet file', async () =>
        parseVariables(await readFile(flagsOf(side)['subnet-file'], 'utf8')),
      ),
    ),
  )
  for (const side of SIDES)
    await waitFor('it knows the other', async () => {
      const status = await askDaemon(flagsOf(side))
      return status !== undefined && knowsTheOther(status)
    })
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
  const backend = async (side: Side): Promise<Readonly<Record<string, unknown>>> => {
    const status = await askDaemon(flagsOf(side))
    if (status?.backend === undefined) throw new Error(`host ${side} has no backend`)
    return status.backend
  }
  const path = async (side: Side): Promise<PathStatus> =>
    await waitFor('the packet path', async () => {
      const { path } = await backend(side)
      return path as PathStatus | undefined
    })
  const stop = async (side: Side, signal: NodeJS.Signals): Promise<void> => {
    await daemons.get(side)?.end(signal)
  }
  const environment = async (side: Side): Promise<ReadonlyMap<string, string>> =>
    parseVariables(await readFile(flagsOf(side)['subnet-file'], 'utf8'))
  const log = async (side: Side): Promise<string> => await readFile(logOf(side), 'utf8')
  const flannelctl = async (side: Side, ...args: readonly string[]): Promise<string> => {
    const places = Object.entries(flagsOf(side)).map(
      ([flag, value]) => `--${flag}=${value}`,
    )
    const [name = '', ...rest] = args
    return await inside(side, process.execPath, FLANNELCTL, name, ...places, ...rest)
  }
  const restart = async (
    side: Side,
    signal: NodeJS.Signals,
    more: readonly string[],
  ): Promise<void> => {
    await stop(side, signal)
    startDaemon(side, more)
    await waitFor('the daemon is ready', async () => {
      const status = await askDaemon(flagsOf(side))
      return status?.phase === 'ready' && knowsTheOther(status)
    })
  }
  const transfer = async (
    family: 4 | 6,
    ...flags: readonly string[]
  ): Promise<number> => {
    const startServer = (): LabProcess =>
      start(2, 'iperf3', ['iperf3', '--server', `--bind=${addressOf(2, family)}`])
    let server = startServer()
    const client = ['iperf3', '--json', '--time=1', `--bind=${addressOf(1, family)}`]
    const to = `--client=${addressOf(2, family)}`
    // A client that is faster than the server says so in a result without figures.
    try {
      return await waitFor('a transfer', async () => {
        // Of the transfer before, the kernel may still hold the port.
        if (server.exit !== undefined) server = startServer()
        const text = await runInside(namespaceOf(1), [...client, to, ...flags], {
          timeoutMs: 20_000,
        })
        const { end } = JSON.parse(text) as {
          end?: {
            sum_received?: { bits_per_second: number }
            sum?: { bits_per_second: number }
          }
        }
        const bits = (end?.sum_received ?? end?.sum)?.bits_per_second ?? 0
        return bits > 0 ? bits / 1e6 : undefined
      })
    } finally {
      await server.end('SIGKILL')
    }
  }
  return {
    directory,
    namespaceOf,
    stateOf: side => flagsOf(side)['state-dir'],
    variables,
    inside,
    addressOf,
    path,
    status: async side => {
      const status = await askDaemon(flagsOf(side))
      if (status === undefined) throw new Error(`host ${side} has no daemon`)
      return status
    },
    backend,
    stop,
    environment,
    log,
    flannelctl,
    watch: side => {
      const places = Object.entries(flagsOf(side)).map(
        ([flag, value]) => `--${flag}=${value}`,
      )
      const words = ['watch', `--etcd-endpoints=${ETCD}`, ...places]
      const running = start(side, 'watch', [process.execPath, FLANNELCTL, ...words])
      const log = join(directory, `watch-${side}.log`)
      return {
        text: () => readFileSync(log, 'utf8'),
        interrupt: async () => (await running.end('SIGINT')).exitCode,
      }
    },
    restart,
    transfer,
  }
}

function knowsTheOther({ remotes = [] }: DaemonStatus): boolean {
  return remotes.length > 0
}

/** Waits until packets of `size` bytes pass. */
export async function passes(pair: Pair, family: 4 | 6, size = 100): Promise<void> {
  await waitFor(`IPv${family} passes`, () => reaches(pair, family, size, ['-W', '2']))
}

/** Whether one packet of `size` bytes is answered. */
export async function reaches(
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
    '20',
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

/** The last subnets of either range stay nobody's. */
export const DUAL = {
  Network: '10.5.0.0/16',
  SubnetMax: '10.5.232.0',
  EnableIPv6: true,
  IPv6Network: 'fd00:5::/48',
  IPv6SubnetMax: 'fd00:5:0:eff0::',
}
