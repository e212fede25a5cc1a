import { SubnetError } from '../../lib/subnet/errors.js'
import { followPrefix } from '../../lib/subnet/follow-prefix.js'
import {
  formatNetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import type { Entry } from '../../lib/subnet/registry.js'
import { configKey } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext } from './daemon.js'

/**
 * Watches the stored configuration and says when it differs from the one in
 * use. It is never applied by itself: one typo would strand a cluster.
 */
export async function watchConfig(
  { registry, prefix, state, clock, log }: DaemonContext,
  inUse: string,
  signal: AbortSignal,
): Promise<void> {
  const key = configKey(prefix)
  const compare = (entry: Entry | undefined): void => {
    const note =
      entry === undefined
        ? `${key} is gone from etcd; this host goes on with the configuration that it has`
        : describeDifference(entry.value, inUse)
    if (note !== undefined) log.warn({ reason: note }, 'network configuration')
    state.note('config', note)
  }
  await followPrefix(
    {
      registry,
      prefix: key,
      clock,
      log,
      onSnapshot: ({ entries }) => {
        compare(entries.find(entry => entry.key === key))
      },
      onChanges: changes => {
        for (const change of changes) {
          if (change.kind === 'delete' && change.key === key) compare(undefined)
          if (change.kind === 'put' && change.entry.key === key) compare(change.entry)
        }
      },
    },
    signal,
  )
}

/** Undefined when both come to the same, however they are written. */
function describeDifference(stored: string, inUse: string): string | undefined {
  const [wanted, present] = [stored, inUse].map(meaningOf)
  if (wanted === present) return undefined
  if (wanted instanceof SubnetError)
    return `${wanted.message}; this host goes on with the configuration that it has, and would not start with that one`
  return 'the stored network configuration has changed; it takes effect with flannelctl config apply, or at a restart'
}

function meaningOf(text: string): string | SubnetError {
  try {
    return formatNetworkConfig(parseNetworkConfig(text))
  } catch (error) {
    if (error instanceof SubnetError) return error
    throw error
  }
}
