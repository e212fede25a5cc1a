/**
 * What a large network costs a kernel backend, in a network namespace of its own:
 * everything from nothing, one change, one repair; and the whole daemon, with a
 * real etcd, from its start to the last route.
 *
 *   npm run bench -- kernel [--remotes N]
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import type { BackendContext, Remote } from '../lib/backend/backend.js'
import { planBackend } from '../lib/backend/backends.js'
import { vxlanEncapsulation } from '../lib/backend/kernel/verification-rules.js'
import { Verification } from '../lib/backend/kernel/verification.js'
import { batch } from '../lib/linux/ip-batch.js'
import { listRoutes } from '../lib/linux/ip-routes.js'
import { parseAddress, parsePrefix } from '../lib/subnet/prefix.js'
import { EtcdRegistry } from '../lib/subnet/etcd-registry.js'
import { subnetFromPrefixes } from '../lib/subnet/subnet-key.js'
import { backendContext } from '../test/helpers/backend-context.js'
import { Daemon } from '../test/helpers/daemon.js'
import { RealEtcd } from '../test/helpers/real-etcd.js'
import { waitFor } from '../test/helpers/wait-for.js'
import { formatTable, median } from './table.js'

const ROUNDS = 5

/** After the last route, until the daemon is at rest. */
const SETTLED_MS = 40_000

const INSIDE = 'FLANNELD_BENCH_INSIDE'

const { values } = parseArgs({
  options: { remotes: { type: 'string', default: '10000' } },
})
const count = Number(values.remotes)

function subnetOf(number: number): string {
  return `10.${number >> 8}.${number & 255}.0/24`
}

function remote(number: number, mac = number): Remote {
  const bytes = [0x02, 0, 0, mac >> 16, (mac >> 8) & 255, mac & 255]
  const text = bytes.map(byte => byte.toString(16).padStart(2, '0')).join(':')
  return {
    subnet: subnetFromPrefixes([parsePrefix(subnetOf(number))]),
    holder: {
      publicIp: parseAddress(`172.16.${number >> 8}.${number & 255}`),
      backendType: 'vxlan',
      backendData: { VNI: 1, VtepMAC: text },
    },
  }
}

async function timed(act: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await act()
  return performance.now() - begin
}

function contextOf(type: string, directory: string): BackendContext {
  const config = { Network: '10.0.0.0/8', Backend: { Type: type } }
  return backendContext(config, directory, ['172.16.0.1'])
}

async function measure(type: string, directory: string): Promise<string[]> {
  const context = contextOf(type, directory)
  const remotes = Array.from({ length: count }, (_, index) => remote(index + 2))
  const plan = planBackend(context)
  const own24 = subnetFromPrefixes([parsePrefix('10.0.1.0/24')])
  const backend = await plan.start(own24)
  const cold = await timed(() => backend.apply(remotes))
  const routes = await listRoutes(4, { protocol: 76 })
  if (routes.length !== count) throw new Error(`${routes.length} routes`)

  const changes: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    remotes[round] = remote(round + 2, 1_000_000 + round)
    if (type === 'host-gw') remotes.splice(round, 1)
    changes.push(await timed(() => backend.apply(remotes)))
  }
  const same = await timed(() => backend.apply(remotes))

  const stop = new AbortController()
  const running = backend.run(stop.signal)
  await new Promise(resolve => setTimeout(resolve, 1000))
  const repairs: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const destination = subnetOf(100 + round)
    await batch([`route delete ${destination}`])
    repairs.push(
      await timed(() =>
        waitFor('the repair', async () =>
          (await listRoutes(4, { protocol: 76 })).some(
            each => each.destination === destination,
          )
            ? true
            : undefined,
        ),
      ),
    )
  }
  stop.abort()
  await running
  const end = await timed(() => backend.close('end'))
  const ms = (value: number): string => `${value.toFixed(0)} ms`
  return [type, ms(cold), ms(median(changes)), ms(same), ms(median(repairs)), ms(end)]
}

/** The sets by which the kernel knows who may send, by themselves. */
async function measureVerification(many: number, directory: string): Promise<string[]> {
  const subnet = parsePrefix('10.0.1.0/24')
  const encapsulation = vxlanEncapsulation(4, { port: 8472, vni: 1 })
  const rules = { families: [{ encapsulation, subnet }], mode: 'strict' as const }
  const verification = new Verification(contextOf('vxlan', directory), {
    ...rules,
    direct: undefined,
  })
  const remotes = Array.from({ length: many }, (_, index) => remote(index + 2))
  const cold = await timed(() => verification.apply(remotes))
  const changes: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    remotes.splice(round, 1)
    changes.push(await timed(() => verification.apply(remotes)))
  }
  await verification.remove()
  const ms = (value: number): string => `${value.toFixed(0)} ms`
  return [many.toLocaleString('en'), ms(cold), ms(median(changes))]
}

/** Puts the records of every remote into etcd, as their daemons would. */
async function fillEtcd(registry: EtcdRegistry, type: string): Promise<void> {
  const config = { Network: '10.0.0.0/8', Backend: { Type: type } }
  const key = '/coreos.com/network'
  await registry.commit(
    [],
    [{ kind: 'put', key: `${key}/config`, value: JSON.stringify(config) }],
  )
  const leaseId = await registry.grantLease(86_400)
  const writes = Array.from({ length: count }, (_, index) => {
    const { holder } = remote(index + 2)
    const value = {
      PublicIP: `172.16.${(index + 2) >> 8}.${(index + 2) & 255}`,
      PublicIPv6: null,
      BackendType: type,
      ...(type === 'vxlan' && { BackendData: holder.backendData }),
      HostID: `host-${index}`,
    }
    return {
      kind: 'put' as const,
      key: `${key}/subnets/${subnetOf(index + 2).replace('/', '-')}`,
      value: JSON.stringify(value),
      leaseId,
    }
  })
  for (let first = 0; first < count; first += 100)
    await registry.commit([], writes.slice(first, first + 100))
}

/** Megabytes of a process: now, and the most it has had. */
function memoryOf(pid: number): { now: number; most: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const read = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024
  return { now: read('VmRSS'), most: read('VmHWM') }
}

async function measureDaemon(type: string, directory: string): Promise<string[]> {
  const etcd = await RealEtcd.open()
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  try {
    await fillEtcd(registry, type)
    const begin = performance.now()
    const daemon = new Daemon([
      '--iface=eth0',
      `--etcd-endpoints=${etcd.endpoint}`,
      `--subnet-file=${directory}/subnet.env`,
      `--state-dir=${directory}/state`,
      `--run-dir=${directory}/run`,
      '--iptables-forward-rules=false',
    ])
    await waitFor(
      'every route',
      async () =>
        (await listRoutes(4, { protocol: 76 })).length === count ? true : undefined,
      120_000,
    )
    const cold = performance.now() - begin
    await new Promise(resolve => setTimeout(resolve, SETTLED_MS))
    const { now, most } = memoryOf(daemon.pid)
    await daemon.stop()
    return [
      type,
      `${cold.toFixed(0)} ms`,
      `${now.toFixed(0)} MB`,
      `${most.toFixed(0)} MB`,
    ]
  } finally {
    registry.close()
    await etcd.close()
  }
}

async function main(): Promise<void> {
  await batch([
    'link set lo up',
    'link add eth0 type veth peer name peer0',
    'address add 172.16.0.1/12 dev eth0',
    'link set eth0 up',
    'link set peer0 up',
  ])
  const rows: string[][] = []
  const daemons: string[][] = []
  for (const type of ['vxlan', 'host-gw']) {
    const directory = mkdtempSync(join(tmpdir(), 'flanneld-bench-'))
    try {
      daemons.push(await measureDaemon(type, directory))
      rows.push(await measure(type, directory))
    } finally {
      rmSync(directory, { recursive: true })
    }
  }
  const sets: string[][] = []
  for (const many of [1000, 10_000]) sets.push(await measureVerification(many, tmpdir()))
  const header = [
    `${count.toLocaleString('en')} remotes`,
    'from nothing',
    'one change',
    'none',
    'one repair',
    'all removed',
  ]
  console.log(formatTable(header, rows))
  console.log(
    formatTable(['the daemon', 'start to last route', 'memory', 'at most'], daemons),
  )
  console.log(formatTable(['senders verified', 'from nothing', 'one change'], sets))
}

if (process.env[INSIDE] === undefined) {
  const program = [
    process.execPath,
    fileURLToPath(import.meta.url),
    ...process.argv.slice(2),
  ]
  const { status } = spawnSync('unshare', ['--net', '--', ...program], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: '1' },
  })
  process.exitCode = status ?? 1
} else await main()
