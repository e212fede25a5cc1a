import { spawn } from 'node:child_process'
import { CLEAN_ENVIRONMENT } from './run.js'

/** What ip-monitor(8) can be asked for. */
export type IpObject = 'link' | 'address' | 'route' | 'neigh'

/**
 * Calls `onEvent` whenever such an object of this network namespace changes, with
 * the lines in which ip-monitor(8) says so.
 * Resolves when `signal` aborts; rejects when the monitor ends by itself.
 */
export async function monitorIp(
  objects: readonly IpObject[],
  onEvent: (lines: string) => void,
  signal: AbortSignal,
): Promise<void> {
  if (signal.aborted) return
  const child = spawn(
    'setpriv',
    ['--pdeathsig', 'KILL', '--', 'ip', 'monitor', ...objects],
    {
      env: CLEAN_ENVIRONMENT,
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  )
  const stop = (): void => {
    child.kill('SIGKILL')
  }
  signal.addEventListener('abort', stop)
  child.stdout.setEncoding('utf8').on('data', onEvent)
  try {
    await new Promise<void>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', exitCode => {
        if (signal.aborted) resolve()
        else reject(new Error(`ip monitor ended with exit code ${exitCode ?? 'none'}`))
      })
    })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
