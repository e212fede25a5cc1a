/* eslint-disable no-console -- a program that prints */
/**
 * npm run scale [-- --hosts=N]: one real daemon in a network of that many hosts, of which the
 * others are records in a real etcd: what it takes to join, to hear of a change, and to be there.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { Lab } from '../../cmd/flannelctl/lab/lab.js'
import { ipInside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { ETCD_ENDPOINT, underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { BACKENDS, type Backend, PREFIX } from './cluster.js'
import { waitFor } from '../helpers/wait-for.js'

const WRITER = fileURLToPath(new URL('./etcd-writer-main.js', import.meta.url))

const { values } = parseArgs({ options: { hosts: { type: 'string', default: '5000' } } })
const hosts = Number(values.hosts)
if (!(hosts > 1 && hosts <= 50_000))
  throw new Error('usage: npm run scale -- [--hosts=N]')

const IDLE_S = 30
const CHANGES = 20
const CHURN = 200
const DEADLINE_MS = 300_000

/** The record of another host; with each turn it has moved to another address. */
function record(backend: Backend, index: number, turn = 0): [key: string, value: string] {
  const address = `172.${16 + (index >> 14)}.${(index >> 6) & 255}.${(index & 63) + 1 + (turn % 2) * 64}`
  const mac = `0e:00:00:${[index >> 16, (index >> 8) & 255, index & 255].map(byte => byte.toString(16).padStart(2, '0')).join(':')}`
  const data = {
    PublicIP: address,
    PublicIPv6: null,
    ...(backend !== 'udp' && { BackendType: backend }),
    ...(backend === 'vxlan' && { BackendData: { VNI: 1, VtepMAC: mac } }),
  }
  const subnet = `10.${(index >> 8) + 1}.${index & 255}.0-24`
  return [`${PREFIX}/subnets/${subnet}`, JSON.stringify(data)]
}

async function write(
  lab: Lab,
  pairs: readonly (readonly [string, string])[],
): Promise<void> {
  await runInside(
    underlayNamespace(lab.name),
    [process.execPath, WRITER, ETCD_ENDPOINT],
    {
      input: pairs.map(pair => `${JSON.stringify(pair)}\n`).join(''),
      timeoutMs: DEADLINE_MS,
    },
  )
}

/** What etcd counts: requests of each kind, and bytes that it sent to clients. */
async function etcdCounters(lab: Lab): Promise<{ requests: number; sentBytes: number }> {
  const program = `fetch('${ETCD_ENDPOINT}/metrics').then(r => r.text()).then(t => console.log(t))`
  const text = await runInside(underlayNamespace(lab.name), [
    process.execPath,
    '-e',
    program,
  ])
  const total = (name: string): number =>
    Array.from(
      text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, 'gm')),
      ([, n]) => Number(n),
    ).reduce((a, b) => a + b, 0)
  return {
    requests: total('grpc_server_started_total'),
    sentBytes: total('etcd_network_client_grpc_sent_bytes_total'),
  }
}

async function cpuSeconds(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8'))
    .replace(/^.*\) /, '')
    .split(' ')
  // utime and stime, in hundredths.
  return (Number(fields[11]) + Number(fields[12])) / 100
}

async function residentMegabytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1000
}

const routeCount = async (host: LabHost): Promise<number> =>
  (await host.run(['ip', '-4', 'route', 'show'])).split('\n').length

/** How many remotes packets can go to, by the kernel or by the path. */
async function reachable(host: LabHost, backend: Backend): Promise<number> {
  if (backend !== 'udp') return await routeCount(host)
  return (await host.daemon.status()).remotes?.length ?? 0
}

async function timed(act: () => Promise<void>): Promise<number> {
  const begin = performance.now()
  await act()
  return performance.now() - begin
}

async function measure(backend: Backend): Promise<string[]> {
  const lab = await Lab.make({ name: 't-scale', hosts: 1 })
  try {
    await lab.etcd.start()
    const config = { Network: '10.0.0.0/8', SubnetLen: 24, Backend: { Type: backend } }
    await lab.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(config))
    const host = lab.host(1)
    await ipInside(host.namespace, ['address add 172.31.255.254/12 dev eth0'])
    await write(
      lab,
      Array.from({ length: hosts - 1 }, (_, index) => record(backend, index)),
    )

    const before = await etcdCounters(lab)
    const join = await timed(async () => {
      await host.daemon.start()
      await waitFor(
        'all remotes are there',
        async () => (await reachable(host, backend)) >= hosts - 1,
        DEADLINE_MS,
      )
    })
    const after = await etcdCounters(lab)
    const { pid } = host.daemon
    const joinCpu = await cpuSeconds(pid)

    await sleep(5000)
    const idleBegin = await cpuSeconds(pid)
    await sleep(IDLE_S * 1000)
    const idle = ((await cpuSeconds(pid)) - idleBegin) / IDLE_S
    const memory = await residentMegabytes(pid)

    // One change after the other, until the kernel has it.
    const latencies: number[] = []
    if (backend === 'host-gw')
      for (let turn = 1; turn <= CHANGES; turn++) {
        const [key, value] = record(backend, 7, turn)
        const { PublicIP } = JSON.parse(value) as { PublicIP: string }
        await write(lab, [[key, value]])
        latencies.push(
          await timed(async () => {
            await waitFor('the route follows', async () => {
              const route = await host.run(['ip', 'route', 'show', '10.1.7.0/24'])
              return route.includes(`via ${PublicIP} `)
            })
          }),
        )
      }
    const churnBegin = await cpuSeconds(pid)
    const churnEtcd = await etcdCounters(lab)
    await write(
      lab,
      Array.from({ length: CHURN }, (_, index) => record(backend, index + 100, 1)),
    )
    await sleep(5000)
    const churn = ((await cpuSeconds(pid)) - churnBegin - idle * 5) / CHURN
    const churnBytes = ((await etcdCounters(lab)).sentBytes - churnEtcd.sentBytes) / CHURN

    const restart = await timed(async () => {
      await host.daemon.kill('SIGTERM')
      await host.daemon.start()
    })
    latencies.sort((a, b) => a - b)
    const latency = latencies[latencies.length >> 1]
    return [
      backend,
      `${(join / 1000).toFixed(1)} s (${joinCpu.toFixed(1)} s of CPU)`,
      `${after.requests - before.requests} requests, ${((after.sentBytes - before.sentBytes) / 1e6).toFixed(2)} MB`,
      `${(restart / 1000).toFixed(1)} s`,
      latency === undefined ? '–' : `${latency.toFixed(0)} ms`,
      `${(churn * 1000).toFixed(1)} ms of CPU, ${churnBytes.toFixed(0)} bytes`,
      `${(idle * 100).toFixed(1)} % of a core`,
      `${memory.toFixed(0)} MB`,
      String(await routeCount(host)),
    ]
  } finally {
    await lab.close()
  }
}

console.log(
  `${hosts} hosts\n| backend | join | from etcd | restart | a change, written to routed | a change | at rest | memory of the daemon | routes |\n|---|---|---|---|---|---|---|---|---|`,
)
for (const backend of BACKENDS) console.log(`| ${(await measure(backend)).join(' | ')} |`)
