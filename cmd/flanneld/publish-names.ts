import { existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { type Container, DockerEngine } from '../../lib/names/docker-engine.js'
import { NamePublisher } from '../../lib/names/name-publisher.js'
import { formatService, nameKey, reverseKey, toLabel } from '../../lib/names/skydns.js'
import { runAll, untilAborted } from '../../lib/subnet/loops.js'
import {
  type Address,
  type Prefix,
  containsAddress,
  formatAddress,
  parseAddress,
} from '../../lib/subnet/prefix.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import type { OwnHolder } from '../../lib/subnet/subnet-record.js'
import type { DaemonContext } from './daemon.js'
import { readFileIfAny } from './files.js'

/** Hosts are below this, so that no container can have the name of one. */
const HOSTS = 'hosts'

/** Many containers that start at once are one list. */
const QUIET_MS = 100

/** An engine is restarted now and then. */
const RETRY_MS = 5000
const FORGET_MS = 60_000

/** Where Debian's systemd listens for the engine, and starts it for whoever connects. */
const ACTIVATED = /^(\/var)?\/run\/docker\.sock$/
const ENGINE_PID = '/run/docker.pid'

export interface NamedHost {
  readonly holder: OwnHolder
  /** This host's part of the overlay. */
  readonly ranges: readonly Prefix[]
}

/** Publishes the names of this host and of its containers, where --names-zone says below what. */
export async function publishNames(
  context: DaemonContext,
  host: NamedHost,
  signal: AbortSignal,
): Promise<void> {
  const { flags, registry, clock, log, state } = context
  const zone = flags['names-zone']
  if (zone === '') {
    await untilAborted(signal)
    return
  }
  const publisher = new NamePublisher({ registry, clock, log })
  let engineTrouble: string | undefined
  state.note('names', () => publisher.trouble ?? engineTrouble)
  const prefix = cleanPrefix(flags['names-prefix'])
  const options = { prefix, zone, name: hostname() }
  const publish = (containers: readonly Container[]): void => {
    publisher.want(recordsOf(containers, { ...host, ...options }))
  }
  publish([])
  const socketPath = flags['docker-socket']
  const follow = async (each: AbortSignal): Promise<void> => {
    if (socketPath === '') {
      await untilAborted(each)
      return
    }
    const engine = new DockerEngine(socketPath)
    let heardAt = clock.now()
    while (!each.aborted) {
      try {
        await checkEngineRuns(socketPath)
        const settle = (): Promise<void> => clock.sleep(QUIET_MS, each)
        for await (const containers of engine.follow(settle, each)) {
          engineTrouble = undefined
          publish(containers)
        }
      } catch (error) {
        const reason = `the containers of Docker at ${socketPath} are not known: ${(error as Error).message}`
        if (engineTrouble === undefined) {
          log.warn({ reason }, 'names of containers')
          heardAt = clock.now()
        }
        engineTrouble = reason
        // Containers may outlive a restart of the engine, but not for long unseen.
        if (clock.now() - heardAt >= FORGET_MS) publish([])
        await clock.sleep(RETRY_MS, each)
      }
    }
  }
  const isOver = (): boolean => signal.reason !== 'keep' || flags['release-on-exit']
  try {
    await runAll(signal, [each => publisher.run(each, isOver), follow])
  } finally {
    state.note('names', undefined)
  }
}

/** A look at containers is no reason to start an engine. Throws Error when none runs. */
async function checkEngineRuns(socketPath: string): Promise<void> {
  if (!ACTIVATED.test(socketPath)) return
  const pid = (await readFileIfAny(ENGINE_PID))?.trim() ?? ''
  if (!/^\d+$/.test(pid) || !existsSync(`/proc/${pid}`))
    throw new Error('it does not run')
}

export interface NameOptions extends NamedHost {
  /** The key below which names are: /skydns. */
  readonly prefix: string
  readonly zone: string
  /** Of the host. */
  readonly name: string
}

/** Every record of this host. What has a name that is none of the DNS, or no address of ours, has none. */
export function recordsOf(
  containers: readonly Container[],
  { holder, ranges, prefix, zone, name }: NameOptions,
): Map<string, string> {
  const records = new Map<string, string>()
  const add = (full: string, address: Address): void => {
    const text = formatAddress(address)
    records.set(nameKey(prefix, full, `${holder.hostId} ${text}`), formatService(text))
  }
  const label = toLabel(name)
  if (label !== undefined)
    for (const address of [holder.publicIp, holder.publicIpv6])
      if (address !== undefined) add(`${label}.${HOSTS}.${zone}`, address)
  for (const container of containers) {
    const own = toLabel(container.name)
    if (own === undefined || own === HOSTS) continue
    for (const address of container.addresses.flatMap(readAddress)) {
      if (!ranges.some(range => containsAddress(range, address))) continue
      add(`${own}.${zone}`, address)
      records.set(reverseKey(prefix, address), formatService(`${own}.${zone}.`))
    }
  }
  return records
}

function readAddress(text: string): Address[] {
  try {
    return [parseAddress(text)]
  } catch {
    return []
  }
}
