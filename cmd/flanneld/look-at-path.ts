import { fileURLToPath } from 'node:url'
import { CommandError, run } from '../../lib/linux/run.js'
import type { DaemonContext } from './daemon.js'
import { ETCD_FLAGS, PLACE_FLAGS, environmentName } from './flag-table.js'

const PROGRAM = fileURLToPath(new URL('../flannelctl.js', import.meta.url))

/** Longer than it measures. */
const TIMEOUT_MS = 18_000
const MAX_OUTPUT = 256 << 10

/** flannelctl's, when it found something. */
const EXIT_TROUBLE = 3

/**
 * What `flannelctl why` finds on this host, as JSON. In a process of its own: it
 * waits for answers of the kernel that hold up whoever asks. Throws CommandError.
 */
export async function lookAtPath(
  { flags, endpoints }: Pick<DaemonContext, 'flags' | 'endpoints'>,
  from: string,
  to: string,
): Promise<string> {
  const known = { ...flags, 'etcd-endpoints': endpoints }
  const names = [...Object.keys(ETCD_FLAGS), ...Object.keys(PLACE_FLAGS)]
  // Not as arguments, which every user of the machine may read.
  const environment = Object.fromEntries(
    names.map(name => [environmentName(name), String(known[name as keyof typeof known])]),
  )
  const args = [PROGRAM, 'why', '--json', '--this-host', from, to]
  try {
    return await run(process.execPath, args, {
      environment,
      timeoutMs: TIMEOUT_MS,
      maxOutput: MAX_OUTPUT,
    })
  } catch (error) {
    if (error instanceof CommandError && error.exitCode === EXIT_TROUBLE)
      return error.stdout
    throw error
  }
}
