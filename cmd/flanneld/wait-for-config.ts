import type { Logger } from 'pino'
import { SubnetError, isRegistryAway } from '../../lib/subnet/errors.js'
import {
  type NetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import { samePrefix } from '../../lib/subnet/prefix.js'
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
  /** True when it is an earlier run's, because etcd does not answer or refuses. */
  readonly isRemembered: boolean
}

/**
 * Waits until etcd answers and holds a usable network configuration; says what
 * it waits for, and again when that changes. While etcd does not answer, or refuses, what
 * an earlier run knew is good enough. Undefined when the daemon is stopped meanwhile.
 */
export async function waitForConfig(
  context: DaemonContext,
  remembered: string | undefined,
): Promise<FoundConfig | undefined> {
  const { log, stop } = context
  const waiting = new Waiting(context, 'waiting for the network configuration')
  while (!stop.aborted) {
    try {
      const text = await readConfig(context)
      return { text, waited: waiting.hasBegun, isRemembered: false }
    } catch (error) {
      if (!(error instanceof SubnetError)) throw error
      const reason = error.message
      if (remembered !== undefined && isRegistryAway(error)) {
        log.warn({ reason }, 'going on with what was known before, until etcd answers')
        return { text: remembered, waited: true, isRemembered: true }
      }
      await waiting.wait(reason)
    }
  }
  return undefined
}

/** Waits from one attempt to the next, where an operator sees it: in the status and in the log. */
class Waiting {
  readonly #context: DaemonContext
  readonly #message: string
  #said = { reason: '', at: 0 }

  constructor(context: DaemonContext, message: string) {
    this.#context = context
    this.#message = message
  }

  get hasBegun(): boolean {
    return this.#said.reason !== ''
  }

  async wait(reason: string): Promise<void> {
    const { state, clock, log, stop } = this.#context
    if (reason !== this.#said.reason || clock.now() - this.#said.at > REMIND_MS) {
      log.warn({ reason }, this.#message)
      this.#said = { reason, at: clock.now() }
    }
    state.wait(reason)
    await clock.sleep(POLL_MS, stop)
  }
}

async function readConfig(context: DaemonContext): Promise<string> {
  const { registry, prefix, state, log } = context
  const key = configKey(prefix)
  state.etcdReachable = false
  const { entry } = await registry.get(key)
  state.etcdReachable = true
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
 * cannot work here. Returns whether others may have to put their records back: etcd
 * was away, or had no configuration.
 *
 * @param isPatient wait for etcd if it does not answer or refuses.
 */
export async function storeFirstConfig(
  context: DaemonContext,
  isPatient: boolean,
): Promise<boolean> {
  const { flags, registry, prefix, endpoints, log, stop } = context
  const network = flags['init-network']
  if (network === '') return false
  const text = JSON.stringify({ Network: network })
  const config = parseFirstConfig(text)
  const key = configKey(prefix)
  const waiting = new Waiting(context, 'waiting for etcd')
  while (!stop.aborted) {
    try {
      const { entry } = await registry.get(key)
      if (entry !== undefined) {
        if (!isSameNetwork(entry.value, config))
          log.warn(
            { stored: entry.value },
            'etcd has a network configuration already; --init-network is not used (flannelctl config set changes it)',
          )
        return waiting.hasBegun
      }
      await checkOverlaps({ config, endpoints })
      const { succeeded } = await registry.commit(
        [{ key, modRevision: 0n }],
        [{ kind: 'put', key, value: text }],
      )
      if (succeeded) log.info({ network }, 'stored a first network configuration')
      return true
    } catch (error) {
      if (!isRegistryAway(error)) throw error
      if (!isPatient) return true
      await waiting.wait(error.message)
    }
  }
  return true
}

function isSameNetwork(stored: string, wanted: NetworkConfig): boolean {
  try {
    const [ours] = wanted.families
    const families = parseNetworkConfig(stored).families
    return families.some(({ network }) => samePrefix(network, ours?.network))
  } catch {
    return false
  }
}

function parseFirstConfig(text: string): NetworkConfig {
  try {
    return parseNetworkConfig(text)
  } catch (cause) {
    throw new UsageError(`--init-network: ${(cause as Error).message}`, { cause })
  }
}
