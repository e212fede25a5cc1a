/**
 * The packet path against others, on two namespaces and a cable.
 *
 *   npm run bench -- path [--rounds N] [--seconds N] [--only NAME,…] [--underlay super|wire]
 *                         [--queues N]
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { arch, cpus, release, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { drawBars } from './path/chart.js'
import { measureCode } from './path/code.js'
import { Arena, type Contestant } from './path/contestants.js'
import { type Figures, measure, memoryOf } from './path/measure.js'
import {
  UNDERLAYS,
  type Underlay,
  addressContainers,
  closeTopology,
  openTopology,
  setContainerMtu,
  setUnderlay,
} from './path/topology.js'
import { formatTable, median } from './table.js'

const RESULTS = fileURLToPath(new URL('../../bench/results/', import.meta.url))
const OURS = 'flanneld udp'
const RELAY = 'relay in C'
const VXLAN = 'kernel vxlan'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    underlay: { type: 'string', default: '' },
    queues: { type: 'string', default: '1' },
  },
})
const rounds = Number(values.rounds)
const seconds = Number(values.seconds)
const only = values.only.split(',').filter(name => name !== '')
const underlays = UNDERLAYS.filter(kind => ['', kind].includes(values.underlay))

type Results = Map<Underlay, Map<string, Figures[]>>

/** The middle of what the rounds gave. */
function middle(
  results: Results,
  underlay: Underlay,
  name: string,
  figure: keyof Figures,
): number {
  const figures = results.get(underlay)?.get(name) ?? []
  return median(figures.map(each => each[figure]))
}

const COLUMNS: readonly (readonly [keyof Figures, string, number])[] = [
  ['tcp1', 'TCP 1, Gbit/s', 2],
  ['tcp4', 'TCP 4, Gbit/s', 2],
  ['udp64', 'UDP 64 B, k/s', 0],
  ['udp1200', 'UDP 1200 B, k/s', 0],
  ['idleRtt', 'idle RTT, ms', 3],
  ['loadedRtt', 'loaded RTT, ms', 2],
  ['cpu', 'CPU s/Gbit', 2],
]

interface Target {
  readonly what: string
  readonly figure: keyof Figures
  readonly underlay: Underlay
  readonly over: string
  /** Of the ratio. */
  readonly least?: number
  readonly most?: number
}

const TARGETS: readonly Target[] = [
  {
    what: 'TCP 1 over the relay',
    figure: 'tcp1',
    underlay: 'super',
    over: RELAY,
    least: 5,
  },
  {
    what: 'TCP 1 over the relay',
    figure: 'tcp1',
    underlay: 'wire',
    over: RELAY,
    least: 5,
  },
  {
    what: 'TCP 1 over kernel vxlan',
    figure: 'tcp1',
    underlay: 'wire',
    over: VXLAN,
    least: 0.8,
  },
  {
    what: 'TCP 1 over kernel vxlan',
    figure: 'tcp1',
    underlay: 'super',
    over: VXLAN,
    least: 0.42,
  },
  {
    what: '64-byte UDP over the relay',
    figure: 'udp64',
    underlay: 'wire',
    over: RELAY,
    least: 2.5,
  },
  {
    what: 'idle RTT over the relay',
    figure: 'idleRtt',
    underlay: 'wire',
    over: RELAY,
    most: 1.1,
  },
]

function judge(results: Results): string[][] {
  return TARGETS.filter(({ underlay }) => results.has(underlay)).map(target => {
    const { what, figure, underlay, over, least, most } = target
    const ratio =
      middle(results, underlay, OURS, figure) / middle(results, underlay, over, figure)
    const isMet = least !== undefined ? ratio >= least : ratio <= (most ?? Infinity)
    const wanted = least !== undefined ? `≥ ${least}` : `≤ ${most ?? ''}`
    return [what, underlay, wanted, ratio.toFixed(2), isMet ? 'met' : 'missed']
  })
}

async function openAll(arena: Arena): Promise<Contestant[]> {
  const ours = await arena.openOurs(values.queues)
  await addressContainers(side => arena.subnetOf(side))
  const others = [
    await arena.openRelay(),
    await arena.openVxlan(),
    arena.openPlain(),
    await arena.openNebula(),
    await arena.openWireguardGo(),
  ]
  return [ours, ...others.filter(contestant => contestant !== undefined)].filter(
    ({ name }) => only.length === 0 || only.some(part => name.includes(part)),
  )
}

async function runRounds(
  arena: Arena,
  contestants: readonly Contestant[],
): Promise<Results> {
  const results: Results = new Map(
    underlays.map(kind => [kind, new Map<string, Figures[]>()]),
  )
  for (let round = 1; round <= rounds; round++) {
    for (const underlay of underlays) {
      await setUnderlay(underlay)
      for (const contestant of contestants) {
        await setContainerMtu(contestant.mtu)
        await arena.select(contestant)
        const ends = { from: `${arena.subnetOf(1)}.2`, to: `${arena.subnetOf(2)}.2` }
        const figures = await measure(ends, seconds)
        const all = results.get(underlay)
        all?.set(contestant.name, [...(all.get(contestant.name) ?? []), figures])
        const tcp = `${figures.tcp1.toFixed(2)} Gbit/s`
        const udp = `${figures.udp64.toFixed(0)} k/s`
        console.log(`${round}/${rounds} ${underlay} ${contestant.name}: ${tcp}, ${udp}`)
      }
    }
  }
  return results
}

function versionOf(command: string, ...args: string[]): string {
  try {
    const text = execFileSync(command, args, { encoding: 'utf8', stdio: 'pipe' })
    return /\d+\.\d+[\w.+-]*/.exec(text)?.[0] ?? ''
  } catch {
    return 'absent'
  }
}

function describeMachine(): string {
  const [cpu] = cpus()
  return [
    `${new Date().toISOString().slice(0, 10)}, Linux ${release()} ${arch()}, ${cpus().length} × ${cpu?.model ?? ''}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
    `Node.js ${process.versions.node}, iperf3 ${versionOf('iperf3', '--version')}, gcc ${versionOf('gcc', '-dumpfullversion')}, nebula ${versionOf('nebula', '-version')}, wireguard-go ${versionOf('wireguard-go', '--version')}`,
    `medians of ${rounds} alternating rounds, ${seconds} s each; both hosts, both containers, client and server share the processors`,
  ].join('; ')
}

const directory = mkdtempSync(join(tmpdir(), 'flanneld-bench-'))
const arena = new Arena(directory)
try {
  await openTopology()
  const contestants = await openAll(arena)
  const results = await runRounds(arena, contestants)
  const memory = new Map<string, number>()
  for (const { name, processes } of contestants)
    memory.set(name, await memoryOf(processes))

  const sections = [describeMachine()]
  for (const underlay of underlays) {
    const rows = contestants.map(({ name, encrypts }) => [
      encrypts ? `${name} (encrypts)` : name,
      ...COLUMNS.map(([figure, , digits]) =>
        middle(results, underlay, name, figure).toFixed(digits),
      ),
      (memory.get(name) ?? 0).toFixed(0),
    ])
    const header = [underlay, ...COLUMNS.map(([, title]) => title), 'MB, both hosts']
    sections.push(formatTable(header, rows))
  }
  sections.push(
    formatTable(['target', 'underlay', 'wanted', 'ratio', ''], judge(results)),
    measureCode(),
  )
  const report = sections.join('\n\n')
  console.log(`\n${report}`)
  mkdirSync(RESULTS, { recursive: true })
  writeFileSync(join(RESULTS, 'path.md'), `${report}\n`)
  const bars = contestants.map(({ name }) => ({
    name,
    values: underlays.map(underlay => middle(results, underlay, name, 'tcp1')),
  }))
  const title = 'TCP, one stream, Gbit/s'
  writeFileSync(join(RESULTS, 'path.svg'), drawBars(title, underlays, bars))
} finally {
  await arena.close()
  await closeTopology()
  rmSync(directory, { recursive: true, force: true })
}
