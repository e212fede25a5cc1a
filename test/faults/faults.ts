import { cp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { ipInside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { run } from '../../lib/linux/run.js'
import { netstatCounter } from '../helpers/netstat.js'
import { type Backend, type Cluster, PREFIX, fillDisk } from './cluster.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1'

/** What is set up for a fault; those that want the same are tried on one cluster. */
export type Setting = 'one member' | 'three members' | 'proxy' | 'short leases'

export interface Fault {
  readonly name: string
  readonly setting: Setting
  /** Unless it can be tried with all of them. */
  readonly backends?: readonly Backend[]
  /** Breaks something, and waits as long as it is to be broken. */
  readonly break: (cluster: Cluster) => Promise<void>
  readonly mend?: (cluster: Cluster) => Promise<void>
  /** Packets are allowed to be lost while it is broken. */
  readonly interrupts?: boolean
  /** From the moment it is mended, or broken if it mends itself: ms until nothing is lost any more. */
  readonly recoverMs?: number
  /** Part of `npm test`, with ten times that. */
  readonly isShort?: boolean
}

const second = ({ lab }: Cluster): LabHost => lab.host(2)
const S = 1000

async function pathPid(host: LabHost): Promise<number> {
  const { backend } = await host.daemon.status()
  return (backend as unknown as { path: { pid: number } }).path.pid
}

async function restart(host: LabHost, signal: NodeJS.Signals): Promise<void> {
  await host.daemon.kill(signal)
  await host.daemon.start()
}

/** A chain with these rules in the place of the one before; none when there are no rules. */
function chainOf(family: string, hook: string, rules: readonly string[]): string {
  const chain = `${family} faults ${hook}`
  return [
    `add table ${family} faults`,
    `delete table ${family} faults`,
    `add table ${family} faults`,
    `add chain ${chain} { type filter hook ${hook} priority -200; }`,
    ...rules.map(rule => `add rule ${chain} ${rule}`),
  ].join('; ')
}

/** What the switch between the hosts does with frames. */
async function filter(cluster: Cluster, ...rules: readonly string[]): Promise<void> {
  await cluster.onUnderlay('nft', chainOf('bridge', 'forward', rules))
}

/** Packets of etcd, which is behind the switch and not across it. */
async function loseOfEtcd({ hosts }: Cluster, percent: number): Promise<void> {
  const rule = `tcp sport 2379 numgen random mod 100 < ${percent} drop`
  const script = chainOf('ip', 'input', percent > 0 ? [rule] : [])
  for (const host of hosts) await host.run(['nft', script])
}

/**
 * A port of the switch whose frames of class 1:2 wait for each other, and the others hardly at
 * all. It stays: to take it away would lose what is in it.
 */
const slowLane = (port: string): readonly string[] => [
  `qdisc replace dev ${port} root handle 1: htb default 1`,
  `class replace dev ${port} parent 1: classid 1:1 htb rate 10gbit burst 1mb`,
  `class replace dev ${port} parent 1: classid 1:2 htb rate 40mbit burst 2kb quantum 2000`,
]

/** Segments of TCP that came to a container before those that were sent before them. */
async function overtaken({ hosts }: Cluster): Promise<number> {
  const texts = await Promise.all(
    hosts.map(({ container }) =>
      runInside(container.namespace, ['cat', '/proc/net/netstat']),
    ),
  )
  return texts
    .map(text => netstatCounter(text, 'TcpExt', 'TCPOFOQueue'))
    .reduce((sum, count) => sum + count, 0)
}

async function setUnderlayMtu({ hosts }: Cluster, mtu: number): Promise<void> {
  for (const host of hosts) await ipInside(host.namespace, [`link set eth0 mtu ${mtu}`])
}

async function readdress(host: LabHost, before: string, after: string): Promise<void> {
  await ipInside(host.namespace, [
    `address delete ${before}/24 dev eth0`,
    `address add ${after}/24 dev eth0`,
    // The kernel took it away with the address.
    'route replace 203.0.113.0/24 via 192.168.77.1 proto 99',
  ])
}

const otherAddress = (host: LabHost): string => host.address.replace(/\.(\d+)$/, '.1$1')

/** A second build of the same program, as an upgrade brings it. */
async function nextBuild({ directory }: Cluster): Promise<string> {
  const place = join(directory, 'next')
  await rm(place, { recursive: true, force: true })
  for (const part of ['dist/cmd', 'dist/lib', 'package.json'])
    await cp(join(ROOT, part), join(place, part), { recursive: true })
  await symlink(join(ROOT, 'node_modules'), join(place, 'node_modules'))
  const manifest = join(place, 'package.json')
  const text = await readFile(manifest, 'utf8')
  await writeFile(manifest, text.replace(/"version": ".*?"/, '"version": "99.0.0"'))
  return join(place, 'dist/cmd/flanneld.js')
}

const clockFile = (cluster: Cluster): string => join(cluster.directory, 'clock')

export const FAULTS: readonly Fault[] = [
  {
    name: 'daemon killed (SIGKILL), started 3 s later',
    setting: 'one member',
    isShort: true,
    break: async cluster => {
      await second(cluster).daemon.kill('SIGKILL')
      await sleep(3 * S)
      await second(cluster).daemon.start()
    },
  },
  {
    name: 'daemon stopped (SIGSTOP) for 10 s',
    setting: 'one member',
    break: async cluster => {
      process.kill(second(cluster).daemon.pid, 'SIGSTOP')
      await sleep(10 * S)
      process.kill(second(cluster).daemon.pid, 'SIGCONT')
    },
  },
  {
    name: 'daemon restarted (SIGTERM)',
    setting: 'one member',
    break: async cluster => {
      await restart(second(cluster), 'SIGTERM')
    },
  },
  {
    name: 'all daemons restarted at once',
    setting: 'one member',
    break: async ({ hosts }) => {
      await Promise.all(hosts.map(host => restart(host, 'SIGTERM')))
    },
  },
  {
    name: 'all daemons killed at once, started again',
    setting: 'one member',
    break: async ({ hosts }) => {
      await Promise.all(hosts.map(host => restart(host, 'SIGKILL')))
    },
  },
  {
    name: 'daemons upgraded to another build, one after the other',
    setting: 'one member',
    break: async cluster => {
      const program = await nextBuild(cluster)
      for (const host of cluster.hosts) {
        host.daemon.program = program
        await restart(host, 'SIGTERM')
      }
    },
    mend: async ({ hosts }) => {
      for (const host of hosts) {
        host.daemon.program = join(ROOT, 'dist/cmd/flanneld.js')
        await restart(host, 'SIGTERM')
      }
    },
  },
  {
    name: 'packet path killed (SIGKILL)',
    setting: 'one member',
    backends: ['udp'],
    interrupts: true,
    recoverMs: 1 * S,
    break: async cluster => {
      process.kill(await pathPid(second(cluster)), 'SIGKILL')
    },
  },
  {
    name: 'packet path out of heap (SIGABRT, as V8 ends)',
    setting: 'one member',
    backends: ['udp'],
    interrupts: true,
    recoverMs: 1 * S,
    break: async cluster => {
      process.kill(await pathPid(second(cluster)), 'SIGABRT')
    },
  },
  {
    name: 'packet path stopped (SIGSTOP)',
    setting: 'one member',
    backends: ['udp'],
    interrupts: true,
    recoverMs: 10 * S,
    break: async cluster => {
      process.kill(await pathPid(second(cluster)), 'SIGSTOP')
    },
  },
  {
    name: 'disk full for 15 s, a daemon restarted meanwhile',
    setting: 'one member',
    break: async cluster => {
      const free = await fillDisk(cluster)
      await sleep(5 * S)
      await restart(second(cluster), 'SIGKILL')
      await sleep(10 * S)
      await free()
    },
  },
  {
    name: 'descriptors exhausted for 15 s',
    setting: 'one member',
    break: async cluster => {
      const { pid } = second(cluster).daemon
      const { length } = await readdir(`/proc/${pid}/fd`)
      await run('prlimit', [`--pid=${pid}`, `--nofile=${length}:`])
      await sleep(15 * S)
      await run('prlimit', [`--pid=${pid}`, '--nofile=4096:'])
    },
  },
  {
    name: 'clock of a host an hour ahead, then an hour behind',
    setting: 'one member',
    break: async cluster => {
      const { daemon } = second(cluster)
      await writeFile(clockFile(cluster), '+0\n')
      daemon.through = [
        'env',
        `LD_PRELOAD=${FAKETIME}`,
        `FAKETIME_TIMESTAMP_FILE=${clockFile(cluster)}`,
        'FAKETIME_CACHE_DURATION=1',
        'DONT_FAKE_MONOTONIC=1',
      ]
      await restart(second(cluster), 'SIGTERM')
      for (const offset of ['+3600', '-3600', '+0']) {
        await writeFile(clockFile(cluster), `${offset}\n`)
        await sleep(8 * S)
      }
    },
    mend: async cluster => {
      second(cluster).daemon.through = []
      await restart(second(cluster), 'SIGTERM')
    },
  },
  {
    name: 'underlay: two hosts cannot reach each other for 10 s',
    setting: 'one member',
    interrupts: true,
    recoverMs: 1 * S,
    break: async cluster => {
      await filter(
        cluster,
        'iifname host1 oifname host2 drop',
        'iifname host2 oifname host1 drop',
      )
      await sleep(10 * S)
    },
    mend: async cluster => {
      await filter(cluster)
    },
  },
  {
    name: 'underlay: packets of one way are lost for 10 s',
    setting: 'one member',
    interrupts: true,
    recoverMs: 1 * S,
    break: async cluster => {
      await filter(cluster, 'iifname host2 oifname host1 drop')
      await sleep(10 * S)
    },
    mend: async cluster => {
      await filter(cluster)
    },
  },
  {
    name: 'underlay: link of a host down and up, five times',
    setting: 'one member',
    interrupts: true,
    recoverMs: 3 * S,
    break: async cluster => {
      for (let count = 0; count < 5; count++) {
        await cluster.onUnderlay('ip', 'link', 'set', second(cluster).name, 'down')
        await sleep(500)
        await cluster.onUnderlay('ip', 'link', 'set', second(cluster).name, 'up')
        await sleep(500)
      }
    },
  },
  {
    name: "underlay: a host's interface down for 5 s (its routes go)",
    setting: 'one member',
    interrupts: true,
    recoverMs: 5 * S,
    break: async cluster => {
      await ipInside(second(cluster).namespace, ['link set eth0 down'])
      await sleep(5 * S)
      await ipInside(second(cluster).namespace, [
        'link set eth0 up',
        'route replace 203.0.113.0/24 via 192.168.77.1 proto 99',
      ])
    },
  },
  {
    name: 'underlay: MTU from 1500 to 1400 for 15 s',
    setting: 'one member',
    // The backend starts anew with another MTU.
    interrupts: true,
    recoverMs: 5 * S,
    break: async cluster => {
      await setUnderlayMtu(cluster, 1400)
      await sleep(15 * S)
    },
    mend: async cluster => {
      await setUnderlayMtu(cluster, 1500)
    },
  },
  {
    name: 'underlay: a host has another address for 20 s',
    setting: 'one member',
    interrupts: true,
    recoverMs: 10 * S,
    break: async cluster => {
      const host = second(cluster)
      await readdress(host, host.address, otherAddress(host))
      await sleep(20 * S)
    },
    mend: async cluster => {
      const host = second(cluster)
      await readdress(host, otherAddress(host), host.address)
    },
  },
  {
    name: 'underlay: 5 % of all packets lost for 15 s',
    setting: 'one member',
    interrupts: true,
    recoverMs: 1 * S,
    break: async cluster => {
      await filter(cluster, 'numgen random mod 100 < 5 drop')
      await sleep(15 * S)
    },
    mend: async cluster => {
      await filter(cluster)
    },
  },
  {
    name: 'underlay: every tenth packet comes behind later ones, for 15 s',
    setting: 'one member',
    recoverMs: 1 * S,
    break: async cluster => {
      for (const { name } of cluster.hosts)
        for (const line of slowLane(name))
          await cluster.onUnderlay('tc', ...line.split(' '))
      const before = await overtaken(cluster)
      await filter(cluster, 'numgen inc mod 10 == 0 meta priority set 1:2')
      await sleep(15 * S)
      if ((await overtaken(cluster)) - before < 100)
        throw new Error('too few are overtaken')
    },
    mend: async cluster => {
      await filter(cluster)
    },
  },
  {
    name: 'etcd: killed, back after 60 s',
    setting: 'one member',
    break: async ({ etcd }) => {
      await etcd.killAll()
      await sleep(60 * S)
      await etcd.start()
    },
  },
  {
    name: 'etcd: everything wiped',
    setting: 'one member',
    isShort: true,
    break: async cluster => {
      await cluster.etcd.wipe()
      await cluster.etcd.start()
      await cluster.storeConfig()
    },
  },
  {
    name: 'etcd: restored from a backup of before',
    setting: 'one member',
    break: async ({ etcd }) => {
      const backup = await etcd.backUp()
      for (let count = 0; count < 50; count++)
        await etcd.ctl('put', '/something/else', String(count))
      await etcd.restore(backup)
      await etcd.start()
    },
  },
  {
    name: 'etcd: compacted to its last revision, while a daemon sleeps',
    setting: 'one member',
    break: async cluster => {
      const { etcd } = cluster
      process.kill(second(cluster).daemon.pid, 'SIGSTOP')
      for (let count = 0; count < 50; count++)
        await etcd.ctl('put', `${PREFIX}/subnets/unreadable`, String(count))
      await etcd.ctl('del', `${PREFIX}/subnets/unreadable`)
      const status = await etcd.ctl('endpoint', 'status', '-w', 'json')
      const revision = /"revision":(\d+)/.exec(status)?.[1] ?? ''
      await etcd.ctl('compact', revision)
      process.kill(second(cluster).daemon.pid, 'SIGCONT')
    },
  },
  {
    name: 'etcd: one of three members killed for 15 s',
    setting: 'three members',
    break: async ({ etcd }) => {
      await etcd.kill(0)
      await sleep(15 * S)
      await etcd.start()
    },
  },
  {
    name: 'etcd: two of three members killed for 30 s',
    setting: 'three members',
    break: async ({ etcd }) => {
      await etcd.kill(0, 1)
      await sleep(30 * S)
      await etcd.start()
    },
  },
  {
    name: 'etcd: all three members killed for 120 s',
    setting: 'three members',
    break: async ({ etcd }) => {
      await etcd.killAll()
      await sleep(120 * S)
      await etcd.start()
    },
  },
  {
    name: 'etcd: three members restored from a backup',
    setting: 'three members',
    break: async ({ etcd }) => {
      await etcd.restore(await etcd.backUp())
      await etcd.start()
    },
  },
  {
    name: 'etcd: answers 2 s late for 20 s, a daemon restarted meanwhile',
    setting: 'proxy',
    break: async cluster => {
      await cluster.slowEtcd({ delayMs: 1000, isFrozen: false })
      await restart(second(cluster), 'SIGTERM')
      await sleep(20 * S)
    },
    mend: async cluster => {
      await cluster.slowEtcd({ delayMs: 0, isFrozen: false })
    },
  },
  {
    name: 'etcd: connections half open for 60 s',
    setting: 'proxy',
    break: async cluster => {
      await cluster.slowEtcd({ delayMs: 0, isFrozen: true })
      await sleep(60 * S)
    },
    mend: async cluster => {
      await cluster.slowEtcd({ delayMs: 0, isFrozen: false })
    },
  },
  {
    name: 'etcd: 30 % of its packets lost for 30 s',
    setting: 'proxy',
    break: async cluster => {
      await loseOfEtcd(cluster, 30)
      await sleep(30 * S)
    },
    mend: async cluster => {
      await loseOfEtcd(cluster, 0)
    },
  },
  {
    name: 'a host sleeps for 80 s, past the end of its lease',
    setting: 'short leases',
    interrupts: true,
    recoverMs: 5 * S,
    break: async cluster => {
      const host = second(cluster)
      const asleep = [host.daemon.pid]
      if (cluster.backend === 'udp') asleep.push(await pathPid(host))
      for (const pid of asleep) process.kill(pid, 'SIGSTOP')
      await sleep(80 * S)
      for (const pid of asleep) process.kill(pid, 'SIGCONT')
    },
  },
]
