/* eslint-disable no-console -- a program that prints */
/**
 * npm run churn [-- --hosts=N] [--minutes=N] [--backend=NAME] [--seed=N]: that many real daemons
 * join and leave at random, killed, stopped, given up; then all of them come back, and kernels
 * and etcd are looked at.
 */
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { ManualClock } from '../fakes/manual-clock.js'
import { Chance } from '../simulator/random.js'
import { BACKENDS, type Backend, Cluster } from './cluster.js'
import { findViolations, remember } from './invariants.js'

const { values } = parseArgs({
  options: {
    hosts: { type: 'string', default: '60' },
    minutes: { type: 'string', default: '5' },
    backend: { type: 'string', default: 'vxlan' },
    seed: { type: 'string', default: '1' },
  },
})
const [hosts, minutes] = [Number(values.hosts), Number(values.minutes)]
const backend = values.backend as Backend
if (!(hosts > 2) || !(minutes > 0) || !BACKENDS.includes(backend))
  throw new Error(
    `usage: npm run churn -- [--hosts=N] [--minutes=N] [--backend=${BACKENDS.join('|')}] [--seed=N]`,
  )

/** Two cores start about one daemon a second. */
const STEP_MS = 1000
const SETTLE_DEADLINE_MS = 180_000

const luck = new ManualClock({ seed: Number(values.seed) })
const chance = new Chance(() => luck.random())
const begun = performance.now()
const cluster = await Cluster.open({
  backend,
  members: 1,
  hosts,
  // Hosts that all know each other fill the kernel's one table of neighbours (gc_thresh3).
  flags: ['--probe-rate=0'],
  isQuiet: true,
})
const took = ((performance.now() - begun) / 1000).toFixed(0)
console.log(`${hosts} hosts of ${backend} are up after ${took} s`)
try {
  const memory = await remember(cluster)
  const up = new Set(cluster.hosts)
  const counts = { killed: 0, stopped: 0, 'taken down': 0, joined: 0 }
  const act = async (host: LabHost): Promise<void> => {
    if (!up.has(host)) {
      up.add(host)
      counts.joined += 1
      host.daemon.launch()
      return
    }
    up.delete(host)
    const way = chance.pick(['killed', 'stopped', 'taken down'] as const) ?? 'killed'
    counts[way] += 1
    await host.daemon.kill(
      ({ killed: 'SIGKILL', stopped: 'SIGTERM', 'taken down': 'SIGINT' } as const)[way],
    )
  }
  const end = performance.now() + minutes * 60_000
  while (performance.now() < end) {
    const host = chance.pick(cluster.hosts)
    if (host !== undefined) await act(host)
    await sleep(STEP_MS)
  }
  console.log(`${minutes} minutes: ${JSON.stringify(counts)}`)
  for (const host of cluster.hosts) if (!up.has(host)) host.daemon.launch()
  const back = performance.now()
  await Promise.all(cluster.hosts.map(host => host.daemon.ready()))
  let violations: string[]
  do {
    await sleep(1000)
    violations = await findViolations(cluster, memory)
  } while (violations.length > 0 && performance.now() - back < SETTLE_DEADLINE_MS)
  const seconds = ((performance.now() - back) / 1000).toFixed(0)
  console.log(
    violations.length === 0
      ? `all back as before, ${hosts - 1} remotes on each of ${hosts}, within ${seconds} s`
      : violations.join('\n'),
  )
  process.exitCode = violations.length === 0 ? 0 : 1
} finally {
  await cluster.close()
}
