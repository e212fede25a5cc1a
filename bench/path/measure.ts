import { readFile, readdir } from 'node:fs/promises'
import { inside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
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
    readonly sum?: {
      readonly seconds: number
      readonly packets: number
      readonly lost_packets: number
    }
  }
}

const SERVER = ['iperf3', '--server', '--one-off', '--forceflush']

/** Runs iperf3 from container 1 to container 2. */
async function iperf(
  address: string,
  seconds: number,
  flags: readonly string[],
): Promise<IperfResult['end']> {
  const server = startServer()
  try {
    await listening(server)
    const command = ['iperf3', '--json', '--time', String(seconds), '--client', address]
    const timeoutMs = (seconds + 20) * 1000
    const text = await runInside(containerOf(1), [...command, ...flags], { timeoutMs })
    return (JSON.parse(text) as IperfResult).end
  } finally {
    server.kill('SIGKILL')
  }
}

function startServer(): ChildProcess {
  const command = ['--pdeathsig', 'KILL', '--', ...inside(containerOf(2), SERVER)]
  return spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'ignore'] })
}

async function listening({ stdout }: ChildProcess): Promise<void> {
  if (stdout === null) throw new TypeError('the server has no output')
  for (let text = ''; !/listening/i.test(text);) {
    const [chunk] = (await once(stdout, 'data')) as [Buffer]
    text += chunk.toString()
  }
}

async function tcp(address: string, seconds: number, streams: number): Promise<number> {
  const { sum_received: received } = await iperf(address, seconds, [
    '-P',
    String(streams),
  ])
  return (received?.bits_per_second ?? 0) / 1e9
}

/** Offered as fast as the sender can. */
async function udp(address: string, seconds: number, size: number): Promise<number> {
  const flags = ['--udp', '--bitrate', '0', '--length', String(size)]
  const { sum } = await iperf(address, seconds, flags)
  return sum === undefined ? 0 : (sum.packets - sum.lost_packets) / sum.seconds / 1000
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

export async function measure(address: string, seconds: number): Promise<Figures> {
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
    udp64: await udp(address, seconds, 64),
    udp1200: await udp(address, seconds, 1200),
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
