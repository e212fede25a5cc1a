/* eslint-disable no-console -- a program that prints */
/**
 * npm run soak [-- --minutes=N] [--backend=NAME]: hosts at full load, TCP in both directions
 * without a pause, while a host joins and leaves every half minute; and whether memory,
 * descriptors and threads of the daemons and packet paths stay as they are.
 */
import { readFile, readdir } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { measureTcp } from '../../cmd/flannelctl/lab/throughput.js'
import { BACKENDS, type Backend, Cluster } from './cluster.js'
import { findViolations, remember } from './invariants.js'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '20' },
    backend: { type: 'string', default: 'udp' },
  },
})
const minutes = Number(values.minutes)
const backend = values.backend as Backend
if (!(minutes > 0) || !BACKENDS.includes(backend))
  throw new Error(
    `usage: npm run soak -- [--minutes=N] [--backend=${BACKENDS.join('|')}]`,
  )

const SAMPLE_MS = 10_000
const CHURN_MS = 30_000
const TRANSFER_S = 10

/** Of iperf3, whose server has to be started anew for each transfer. */
const MOST_FAILURES = 5

/** By then caches are filled and code is compiled. */
const WARM_SHARE = 0.25
/** More than a garbage collector lets it sway. */
const MOST_GROWTH = 1.1

interface Sample {
  readonly residentBytes: number
  readonly descriptors: number
  readonly threads: number
}

/** The processes of the hosts that stay, by name. */
async function processesOf(hosts: readonly LabHost[]): Promise<Map<string, number>> {
  const found = new Map<string, number>()
  for (const { name, daemon } of hosts) {
    found.set(`${name} daemon`, daemon.pid)
    const { backend: status } = await daemon.status()
    const { path } = status as unknown as { path?: { pid: number } }
    if (path !== undefined) found.set(`${name} path`, path.pid)
  }
  return found
}

async function sample(pid: number): Promise<Sample> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const value = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])
  const { length } = await readdir(`/proc/${pid}/fd`)
  return {
    residentBytes: value('VmRSS') * 1024,
    descriptors: length,
    threads: value('Threads'),
  }
}

const cluster = await Cluster.open({ backend, members: 1 })
let isWell = true
try {
  const [one, two, three] = [1, 2, 3].map(number => cluster.lab.host(number)) as [
    LabHost,
    LabHost,
    LabHost,
  ]
  const memory = await remember(cluster)
  const processes = await processesOf([one, two])
  const samples = new Map<string, Sample[]>()
  const end = performance.now() + minutes * 60_000
  const isOver = (): boolean => performance.now() > end
  let bits = 0
  let transfers = 0
  let failures = 0

  const load = async (from: LabHost, to: LabHost): Promise<void> => {
    while (!isOver()) {
      try {
        const { bitsPerSecond } = await measureTcp(
          from.container,
          to.container,
          TRANSFER_S,
        )
        bits += bitsPerSecond
        transfers += 1
      } catch (error) {
        // The port of the transfer before may not be free yet.
        failures += 1
        if (failures > MOST_FAILURES) throw error
        await sleep(1000)
      }
    }
  }
  const churn = async (): Promise<void> => {
    while (!isOver()) {
      await three.daemon.kill('SIGINT')
      await sleep(CHURN_MS / 2)
      await three.daemon.start()
      await sleep(CHURN_MS / 2)
    }
  }
  const watch = async (): Promise<void> => {
    while (!isOver()) {
      for (const [name, pid] of processes)
        samples.set(name, [...(samples.get(name) ?? []), await sample(pid)])
      await sleep(SAMPLE_MS)
    }
  }
  await Promise.all([load(one, two), load(two, one), churn(), watch()])

  console.log(
    `${backend}: ${minutes} minutes, ${transfers} transfers of ${TRANSFER_S} s, ${(bits / transfers / 1e6).toFixed(0)} Mbit/s each of two at a time on the mean`,
  )
  console.log(
    '| process | memory at first, at last (MB) | descriptors | threads | verdict |\n|---|---|---|---|---|',
  )
  for (const [name, all] of samples) {
    // The mean of a fifth: one sample says where the collector was.
    const warm = all.slice(Math.floor(all.length * WARM_SHARE))
    const part = Math.max(1, Math.floor(warm.length / 5))
    const [early, late] = [warm.slice(0, part), warm.slice(-part)]
    const growth = mean(late, 'residentBytes') / mean(early, 'residentBytes')
    const isFlat =
      growth < MOST_GROWTH &&
      mean(late, 'descriptors') <= mean(early, 'descriptors') + 2 &&
      mean(late, 'threads') <= mean(early, 'threads') + 1
    isWell &&= isFlat
    const both = (key: keyof Sample, scale = 1): string =>
      `${(mean(early, key) / scale).toFixed(0)}, ${(mean(late, key) / scale).toFixed(0)}`
    console.log(
      `| ${name} | ${both('residentBytes', 1e6)} | ${both('descriptors')} | ${both('threads')} | ${isFlat ? 'flat' : 'GROWS'} |`,
    )
  }
  await cluster.traffic.flows(2000, 60_000)
  const violations = await findViolations(cluster, memory)
  console.log(violations.length === 0 ? 'all as before' : violations.join('\n'))
  isWell &&= violations.length === 0
} finally {
  await cluster.close()
}
process.exitCode = isWell ? 0 : 1

function mean(samples: readonly Sample[], key: keyof Sample): number {
  return samples.reduce((sum, each) => sum + each[key], 0) / samples.length
}
