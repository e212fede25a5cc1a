import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { inside } from './namespaces.js'

const PROGRAM = fileURLToPath(new URL('./ping-main.js', import.meta.url))

export interface PingOptions {
  /** Echo requests to each target. */
  readonly count?: number
  readonly intervalMs?: number
  /** Length of the IP packet, headers included. */
  readonly packetBytes?: number
  /** Never fragmented: what is too long is refused. */
  readonly dontFragment?: boolean
  /** How long the last answers are waited for. */
  readonly timeoutMs?: number
}

/** What ping-main is told and tells, as JSON. */
export interface PingOrder extends Required<PingOptions> {
  readonly targets: readonly string[]
}

export interface PingResult {
  readonly target: string
  readonly sent: number
  readonly received: number
  /** Median; undefined without an answer. */
  readonly rttMs?: number
  /** What went wrong, each once: `10.5.7.0: net unreachable`. */
  readonly errors: readonly string[]
}

const DEFAULTS = {
  count: 1,
  intervalMs: 200,
  packetBytes: 84,
  dontFragment: false,
  timeoutMs: 10_000,
} as const satisfies Required<PingOptions>

/** Pings all targets at once from inside a namespace. */
export async function ping(
  namespace: string,
  targets: readonly string[],
  options: PingOptions = {},
): Promise<PingResult[]> {
  return await startPing(namespace, targets, options).result
}

/** A ping that goes on in the background. */
export interface RunningPing {
  readonly result: Promise<PingResult[]>
  /** Ends it early; what it has seen so far is the result. */
  stop(): Promise<PingResult[]>
}

export function startPing(
  namespace: string,
  targets: readonly string[],
  options: PingOptions = {},
): RunningPing {
  const order: PingOrder = { ...DEFAULTS, ...options, targets }
  const command = inside(namespace, [process.execPath, PROGRAM, JSON.stringify(order)])
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const begun = new Promise(resolve => child.stdout.once('data', resolve))
  const result = new Promise<PingResult[]>((resolve, reject) => {
    let output = ''
    let failure = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk))
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (failure += chunk))
    child.once('error', reject)
    child.once('close', exitCode => {
      if (exitCode === 0) resolve(JSON.parse(output) as PingResult[])
      else
        reject(new Error(`cannot ping from ${namespace}: ${failure.trim() || 'killed'}`))
    })
  })
  return {
    result,
    stop: async () => {
      // Before it has begun the signal would end it without a result.
      await Promise.race([begun, result])
      child.kill('SIGTERM')
      return await result
    },
  }
}
