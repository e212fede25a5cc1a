import type { Logger } from 'pino'
import { Backoff } from '../../lib/subnet/clock.js'
import {
  type PreviousSubnetEnv,
  formatSubnetEnv,
  parseSubnetEnv,
} from '../../lib/subnet/subnet-env.js'
import { prefixesOf } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext } from './daemon.js'
import { readFileIfAny, writeFileAtomic } from './files.js'
import type { Serving } from './network-host.js'

/** Container runtimes of any user read it. */
const MODE = 0o644

const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 10_000

/** What an earlier run wrote down; undefined when there is none to be read. */
export async function readPreviousSubnetEnv(
  path: string,
  log: Logger,
): Promise<PreviousSubnetEnv | undefined> {
  try {
    const text = await readFileIfAny(path)
    const previous = text === undefined ? undefined : parseSubnetEnv(text)
    return previous !== undefined && prefixesOf(previous.subnet).length > 0
      ? previous
      : undefined
  } catch (error) {
    log.warn({ reason: (error as Error).message }, 'cannot read the former subnet file')
    return undefined
  }
}

/**
 * Writes the environment file for the container runtime. As with flannel a
 * failure does not end the daemon; it is told, and tried again until it works
 * or `signal` aborts, unless the file says that already. Returns whether it does.
 */
export async function writeSubnetEnv(
  { flags, state, clock, log }: DaemonContext,
  { config, subnet, plan }: Serving,
  signal: AbortSignal,
): Promise<boolean> {
  const path = flags['subnet-file']
  const text = formatSubnetEnv({
    networks: config.families.map(({ network }) => network),
    subnet,
    mtu: plan.overlayMtu,
    ipMasq: flags['ip-masq'],
  })
  const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
  let said = false
  while (!signal.aborted) {
    try {
      await writeFileAtomic(path, text, MODE)
      log.info({ path }, 'subnet file written')
      state.report('subnet file', undefined)
      return true
    } catch (error) {
      // On a full disk, what an earlier run has left there will do.
      if ((await readFileIfAny(path).catch(() => undefined)) === text) {
        log.warn({ reason: (error as Error).message }, 'the subnet file stays as it was')
        state.report('subnet file', undefined)
        return true
      }
      const reason = `${(error as Error).message}; make its directory writable or set --subnet-file`
      if (!said) log.error({ reason }, 'container runtimes cannot be told of the subnet')
      said = true
      state.wait(reason)
      await backoff.wait(signal)
    }
  }
  return false
}
