/**
 * What a large network costs a kernel backend, in a network namespace of its own:
 * everything from nothing, one change, one repair.
 *
 *   npm run bench -- kernel [--remotes N]
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { pino } from 'pino'
import type { BackendContext, Remote } from '../lib/backend/backend.js'
import { planBackend } from '../lib/backend/backends.js'
import { batch, listRoutes } from '../lib/linux/iproute.js'
import { bootTimeMs } from '../lib/linux/libc.js'
import { systemClock } from '../lib/subnet/clock.js'
import { parseNetworkConfig } from '../lib/subnet/network-config.js'
import { parseAddress, parsePrefix } from '../lib/subnet/prefix.js'
import { subnetFromPrefixes } from '../lib/subnet/subnet-key.js'
import { waitFor } from '../test/helpers/wait-for.js'
import { formatTable, median } from './table.js'

const ROUNDS = 5
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

async function measure(type: string, directory: string): Promise<string[]> {
  const config = parseNetworkConfig(
    JSON.stringify({ Network: '10.0.0.0/8', Backend: { Type: type } }),
  )
  const own = parseAddress('172.16.0.1')
  const context: BackendContext = {
    config,
    underlay: {
      device: 'eth0',
      index: 2,
      mtu: 1500,
      mac: undefined,
      addresses: { 4: own },
      publicAddresses: { 4: own },
      notes: [],
    },
    stateDir: directory,
    runDir: directory,
    verify: 'strict',
    udpQueues: 1,
    clock: systemClock(bootTimeMs),
    log: pino({ level: 'silent' }),
  }
  const before = process.memoryUsage().rss
  const remotes = Array.from({ length: count }, (_, index) => remote(index + 2))
  const plan = planBackend(context)
  const own24 = subnetFromPrefixes([parsePrefix('10.0.1.0/24')])
  const backend = await plan.start(own24)
  const cold = await timed(() => backend.apply(remotes))
  const routes = await listRoutes(4, 76)
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
          (await listRoutes(4, 76)).some(each => each.destination === destination)
            ? true
            : undefined,
        ),
      ),
    )
  }
  stop.abort()
  await running
  const memory = (process.memoryUsage().rss - before) / 2 ** 20
  const end = await timed(() => backend.close('end'))
  const ms = (value: number): string => `${value.toFixed(0)} ms`
  return [
    type,
    ms(cold),
    ms(median(changes)),
    ms(same),
    ms(median(repairs)),
    ms(end),
    `${memory.toFixed(0)} MB`,
  ]
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
  for (const type of ['vxlan', 'host-gw']) {
    const directory = mkdtempSync(join(tmpdir(), 'flanneld-bench-'))
    try {
      rows.push(await measure(type, directory))
    } finally {
      rmSync(directory, { recursive: true })
    }
  }
  const header = [
    `${count.toLocaleString('en')} remotes`,
    'from nothing',
    'one change',
    'none',
    'one repair',
    'all removed',
    'memory',
  ]
  console.log(formatTable(header, rows))
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
