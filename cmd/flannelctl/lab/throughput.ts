import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { LabContainer } from './host.js'
import { inside } from './namespaces.js'
import { isInstalled } from './requirements.js'

const PROGRAM = fileURLToPath(new URL('./throughput-main.js', import.meta.url))

/** What a transfer came to. */
export interface Throughput {
  readonly tool: 'iperf3' | 'node'
  readonly bitsPerSecond: number
}

/** Measures one TCP stream from one container to another with iperf3, or with Node where there is none. */
export async function measureTcp(
  from: LabContainer,
  to: LabContainer,
  seconds: number,
): Promise<Throughput> {
  const tool = (await isInstalled('iperf3')) ? 'iperf3' : 'node'
  const commands =
    tool === 'iperf3'
      ? {
          server: ['iperf3', '--server', '--one-off', '--forceflush'],
          client: ['iperf3', '--json', '--time', String(seconds), '--client', to.address],
        }
      : {
          server: [process.execPath, PROGRAM, 'server'],
          client: [process.execPath, PROGRAM, to.address, String(seconds)],
        }
  const server = startServer(to.namespace, commands.server)
  try {
    await listening(server)
    const timeoutMs = (seconds + 30) * 1000
    const output = await from.run(commands.client, { timeoutMs })
    return { tool, bitsPerSecond: readResult(tool, output) }
  } finally {
    server.kill('SIGKILL')
  }
}

function startServer(namespace: string, command: readonly string[]): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...inside(namespace, command)], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  })
}

/** Both servers say `listening` once they do. */
async function listening(server: ChildProcess): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    if (server.stdout === null) throw new TypeError('the server has no output')
    createInterface({ input: server.stdout })
      .on('line', line => {
        if (/listening/i.test(line)) resolve()
      })
      .on('close', () => {
        reject(new Error('the server of the transfer ended before it listened'))
      })
  })
}

function readResult(tool: Throughput['tool'], output: string): number {
  const result = JSON.parse(output) as {
    bitsPerSecond?: number
    end?: { sum_received?: { bits_per_second?: number } }
  }
  const bits =
    tool === 'iperf3' ? result.end?.sum_received?.bits_per_second : result.bitsPerSecond
  if (bits === undefined || !(bits > 0)) throw new Error('the transfer moved nothing')
  return bits
}
