import type { Logger } from 'pino'
import { SubnetError, isSubnetError } from '../../lib/subnet/errors.js'
import {
  type NetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import { configKey } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext } from './daemon.js'
import { UsageError } from './parse-flags.js'
import { checkOverlaps } from './this-host.js'

/** flannel asks once a second, for ever. */
const POLL_MS = 1000

/** While nothing changes, the reason is said again this often. */
const REMIND_MS = 60_000

export interface FoundConfig {
  /** A usable network configuration, as it is stored. */
  readonly text: string
  /** True when it was not there at the first look. */
  readonly waited: boolean
  /** True when it is an earlier run's, because etcd does not answer. */
  readonly isRemembered: boolean
}

/**
 * Waits until etcd answers and holds a usable network configuration; says what
 * it waits for, and again when that changes. While etcd does not answer, what an
 * earlier run knew is good enough. Undefined when the daemon is stopped meanwhile.
 */
export async function waitForConfig(
  context: DaemonContext,
  remembered: string | undefined,
): Promise<FoundConfig | undefined> {
  const { state, clock, log, stop } = context
  let said = { reason: '', at: 0 }
  while (!stop.aborted) {
    try {
      const text = await readConfig(context)
      return { text, waited: said.reason !== '', isRemembered: false }
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      const reason = error.message
      if (remembered !== undefined && error.code === 'ERR_REGISTRY_UNAVAILABLE') {
        log.warn({ reason }, 'going on with what was known before, until etcd answers')
        return { text: remembered, waited: true, isRemembered: true }
      }
      if (reason !== said.reason || clock.now() - said.at > REMIND_MS) {
        log.warn({ reason }, 'waiting for the network configuration')
        said = { reason, at: clock.now() }
      }
      state.wait(reason)
      await clock.sleep(POLL_MS, stop)
    }
  }
  return undefined
}

async function readConfig({ registry, prefix, log }: DaemonContext): Promise<string> {
  const key = configKey(prefix)
  const { entry } = await registry.get(key)
  if (entry === undefined) {
    throw new SubnetError(
      'ERR_SUBNET_CONFIG',
      `etcd has no key ${key}; store one: flannelctl config set '{"Network":"10.5.0.0/16"}'`,
    )
  }
  warnOfUnknownKeys(parseNetworkConfig(entry.value), log)
  return entry.value
}

function warnOfUnknownKeys({ unknownKeys }: NetworkConfig, log: Logger): void {
  if (unknownKeys.length > 0) {
    log.warn(
      { keys: unknownKeys },
      'the network configuration has keys that mean nothing',
    )
  }
}

/**
 * --init-network: stores a first configuration if there is none, unless it
 * cannot work here.
 *
 * @param isPatient wait for etcd if it does not answer.
 */
export async function storeFirstConfig(
  context: DaemonContext,
  isPatient: boolean,
): Promise<void> {
  const { flags, registry, prefix, clock, endpoints, log, stop } = context
  const network = flags['init-network']
  if (network === '') return
  const text = JSON.stringify({ Network: network })
  const config = parseFirstConfig(text)
  const key = configKey(prefix)
  while (!stop.aborted) {
    try {
      const { entry } = await registry.get(key)
      if (entry !== undefined) return
      await checkOverlaps({ config, endpoints })
      const { succeeded } = await registry.commit(
        [{ key, modRevision: 0n }],
        [{ kind: 'put', key, value: text }],
      )
      if (succeeded) log.info({ network }, 'stored a first network configuration')
      return
    } catch (error) {
      if (!isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')) throw error
      if (!isPatient) return
      log.warn({ reason: error.message }, 'waiting for etcd')
      await clock.sleep(POLL_MS, stop)
    }
  }
}

function parseFirstConfig(text: string): NetworkConfig {
  try {
    return parseNetworkConfig(text)
  } catch (cause) {
    throw new UsageError(`--init-network: ${(cause as Error).message}`, { cause })
  }
}
