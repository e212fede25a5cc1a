import { readFile, readdir } from 'node:fs/promises'
import { inside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { containerOf } from './topology.js'

export interface Figures {
  /** Gbit/s of payload. */
  readonly tcp1: number
  readonly tcp4: number
  /** Thousands of packets delivered a second. */
  readonly udp64: number
  readonly udp1200: number
  /** Median round trip in ms, with nothing else and under one TCP stream. */
  readonly idleRtt: number
  readonly loadedRtt: number
  /** Seconds of all processors for a gigabit of the one TCP stream, client and server included. */
  readonly cpu: number
}

interface IperfResult {
  readonly end: {
    readonly sum_received?: { readonly bits_per_second: number }
  }
}

const SERVER = ['iperf3', '--server', '--one-off', '--forceflush']

/** Runs iperf3 from container 1 to container 2. */
async function iperf(
  address: string,
  seconds: number,
  flags: readonly string[],
): Promise<IperfResult['end']> {
  const server = startInside(2, SERVER)
  try {
    await collect(server).says(/listening/i)
    const command = ['iperf3', '--json', '--time', String(seconds), '--client', address]
    const timeoutMs = (seconds + 20) * 1000
    const text = await runInside(containerOf(1), [...command, ...flags], { timeoutMs })
    return (JSON.parse(text) as IperfResult).end
  } finally {
    server.kill('SIGKILL')
  }
}

function startInside(side: 1 | 2, command: readonly string[]): ChildProcess {
  const words = ['--pdeathsig', 'KILL', '--', ...inside(containerOf(side), command)]
  return spawn('setpriv', words, { stdio: ['ignore', 'pipe', 'ignore'] })
}

/** What a program says, waited for. */
function collect({ stdout }: ChildProcess): {
  says(pattern: RegExp): Promise<RegExpExecArray>
} {
  if (stdout === null) throw new TypeError('the program has no output')
  let text = ''
  stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  return {
    says: async pattern => {
      for (;;) {
        const found = pattern.exec(text)
        if (found !== null) return found
        await once(stdout, 'data', { signal: AbortSignal.timeout(30_000) })
      }
    },
  }
}

async function tcp(address: string, seconds: number, streams: number): Promise<number> {
  const { sum_received: received } = await iperf(address, seconds, [
    '-P',
    String(streams),
  ])
  return (received?.bits_per_second ?? 0) / 1e9
}

const LOAD = fileURLToPath(new URL('./udp-load.js', import.meta.url))

/** Thousands a second delivered, of as many as the sender can offer. */
async function udp(ends: Ends, seconds: number, size: number): Promise<number> {
  const port = '9000'
  const server = startInside(2, [process.execPath, LOAD, 'receive', ends.to, port])
  const output = collect(server)
  try {
    await output.says(/ready/)
    const words = [ends.from, ends.to, port, String(size), String(seconds)]
    await runInside(containerOf(1), [process.execPath, LOAD, 'send', ...words])
    const [, count = '0'] = await output.says(/ready\n(\d+)\n/)
    return Number(count) / seconds / 1000
  } finally {
    server.kill('SIGKILL')
  }
}

/** The median round trip of `count` pings, in ms. */
async function ping(address: string, count: number, seconds: number): Promise<number> {
  const command = [
    'ping',
    '-n',
    '-c',
    String(count),
    '-i',
    String(seconds / count),
    address,
  ]
  const text = await runInside(containerOf(1), command).catch(() => '')
  const times = [...text.matchAll(/time=([\d.]+)/g)].map(([, time]) => Number(time))
  times.sort((a, b) => a - b)
  return times[times.length >> 1] ?? Number.NaN
}

/** Ticks that all processors have worked. */
async function busyTicks(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n')
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line
    .split(/\s+/)
    .map(Number)
  return user + nice + system + irq + softirq
}

const TICKS_PER_SECOND = 100

export interface Ends {
  readonly from: string
  readonly to: string
}

/** Measures from container 1 to container 2. */
export async function measure(ends: Ends, seconds: number): Promise<Figures> {
  const address = ends.to
  const idleRtt = await ping(address, 100, seconds)
  const before = await busyTicks()
  const tcp1 = await tcp(address, seconds, 1)
  const busy = ((await busyTicks()) - before) / TICKS_PER_SECOND
  const tcp4 = await tcp(address, seconds, 4)
  const [loadedRtt] = await Promise.all([
    ping(address, 50, seconds),
    tcp(address, seconds, 1),
  ])
  return {
    tcp1,
    tcp4,
    udp64: await udp(ends, seconds, 64),
    udp1200: await udp(ends, seconds, 1200),
    idleRtt,
    loadedRtt,
    cpu: busy / (tcp1 * seconds),
  }
}

/** Resident memory of the processes of some names together, in MB. */
export async function memoryOf(names: readonly string[]): Promise<number> {
  let kilobytes = 0
  for (const pid of (await readdir('/proc')).filter(name => /^\d+$/.test(name))) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
    const name = /^Name:\s+(.*)$/m.exec(status)?.[1] ?? ''
    if (names.some(wanted => wanted.slice(0, 15) === name))
      kilobytes += Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0)
  }
  return kilobytes / 1024
}
