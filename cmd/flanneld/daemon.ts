import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import type { FileLock } from '../../lib/linux/file-lock.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { checkPrivileges } from './check-privileges.js'
import { Cleanup } from './cleanup.js'
import {
  embeddedEtcdAccess,
  readEmbeddedEtcdFlags,
  startEmbeddedEtcd,
} from './embedded-etcd-flags.js'
import { readEtcdOptions } from './etcd-options.js'
import type { FLANNELD_FLAGS } from './flag-table.js'
import { Journal } from './journal.js'
import { readListenAddress } from './listen-address.js'
import { type Flags, UsageError } from './parse-flags.js'
import {
  type Places,
  checkSocketName,
  lockPlaces,
  lockSubnetFile,
  makePlaces,
  placesOf,
} from './places.js'
import { prepareNetwork } from './prepare-network.js'
import { serveNetwork } from './serve-network.js'
import { DaemonState } from './state.js'
import { StartError } from './start-error.js'
import { openHealthServer, openStatusServer } from './status-server.js'
import { keepSystemdInformed, notifySystemd } from './systemd-notify.js'

export type DaemonFlags = Flags<typeof FLANNELD_FLAGS>

/** What every part of a running daemon needs. */
export interface DaemonContext {
  readonly flags: DaemonFlags
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly places: Places
  readonly registry: EtcdRegistry
  readonly endpoints: readonly string[]
  readonly state: DaemonState
  readonly journal: Journal
  /** What may be asked of the daemon over its status socket, by name. */
  readonly actions: Map<string, () => void>
  /** The same of what it may be asked besides its status. */
  readonly questions: Map<string, () => Promise<unknown>>
  readonly leaseTtlSeconds: number
  readonly renewMarginMs: number
  readonly cleanup: Cleanup
  readonly clock: Clock
  readonly log: Logger
  /** Aborts when the daemon is to stop; its reason is a StopHow. */
  readonly stop: AbortSignal
  /** Stops the daemon from inside, and packets with it. */
  readonly end: () => void
}

/** What becomes of the packets when the daemon stops: see Backend.close. */
export type StopHow = 'keep' | 'end'

/**
 * Runs a daemon until `stop` aborts; rejects when it cannot start or go on.
 *
 *   start: lock · status and health servers · embedded etcd · registry ·
 *          configuration · interface · lease · device · firewall · subnet.env · READY
 *          (from the configuration on again when that or the interface changes)
 *   stop:  the same backwards; rules, routes and subnet.env stay
 */
export async function runDaemon(
  flags: DaemonFlags,
  parts: {
    readonly clock: Clock
    readonly log: Logger
    readonly stop: AbortSignal
    /** Calls back when a supervisor wants files to be read again. */
    readonly onReload: (act: () => void) => void
  },
): Promise<void> {
  const cleanup = new Cleanup()
  try {
    const context = await open(flags, { ...parts, cleanup })
    parts.onReload(() => {
      reload(context)
    })
    const informed = new AbortController()
    cleanup.push(() => {
      informed.abort()
    })
    const oneLine = (): string => context.state.oneLine()
    void keepSystemdInformed(parts, oneLine, informed.signal)
    for (let next = 'again'; next === 'again';) {
      const prepared = await prepareNetwork(context)
      if (prepared === undefined) break
      next = await serveNetwork(context, prepared)
    }
    context.state.phase = 'stopping'
    notifySystemd('STOPPING=1', parts.log)
  } finally {
    await cleanup.run()
  }
}

/** Certificates and the password of etcd are read when they change; this reads them now. */
function reload({ registry, state, log }: DaemonContext): void {
  log.info('reading certificates and password for etcd again')
  const now = process.hrtime.bigint() / 1000n
  notifySystemd(`RELOADING=1\nMONOTONIC_USEC=${now}`, log)
  registry.renew()
  if (state.phase === 'ready') notifySystemd('READY=1', log)
}

/** Takes this daemon's places on the host and finds etcd. */
async function open(
  given: DaemonFlags,
  parts: Pick<DaemonContext, 'clock' | 'log' | 'stop' | 'cleanup'>,
): Promise<DaemonContext> {
  const { cleanup, log } = parts
  const listen = readEmbeddedEtcdFlags(given)
  const flags = { ...given, ...(listen && embeddedEtcdAccess(listen, given)) }
  const leaseTtlSeconds = readLeaseTtl(flags['subnet-lease-ttl'])
  const renewMarginMs = readRenewMargin(
    flags['subnet-lease-renew-margin'],
    leaseTtlSeconds,
  )
  const etcd = readEtcdOptions(flags, log)
  await checkPrivileges()
  const prefix = cleanPrefix(flags['etcd-prefix'])
  const places = placesOf(flags)
  checkSocketName(places.statusSocket)
  await makePlaces(places.stateDir, places.runDir)
  takeLocks(places, { ...flags, 'etcd-prefix': prefix }, cleanup)

  const journal = new Journal(places.journalFile, parts.clock, log)
  cleanup.push(() => journal.close())
  const state = new DaemonState()
  const actions = new Map<string, () => void>()
  const questions = new Map<string, () => Promise<unknown>>()
  const status = await openStatusServer(
    places.statusSocket,
    () => state.toJson(),
    actions,
    questions,
  )
  cleanup.push(() => status.close())
  if (flags['healthz-port'] > 0) {
    const address = { host: flags['healthz-ip'], port: flags['healthz-port'] }
    const health = await openHealthServer(address, state, log)
    cleanup.push(() => health.close())
  }

  if (flags['status-listen'] !== '') {
    const address = readListenAddress('status-listen', flags['status-listen'])
    // Not all hosts pay for what few use.
    const { openWebServer } = await import('./web-server.js')
    const { journalFile } = places
    const report = (): Promise<Record<string, unknown>> => state.toJson()
    const web = await openWebServer({ address, report, journalFile, log })
    cleanup.push(() => web.close())
  }

  const embedded =
    listen && (await startEmbeddedEtcd(listen, { ...parts, flags, places }))
  if (embedded) cleanup.push(() => embedded.close())
  const endpoints = embedded ? [embedded.endpoint] : etcd.endpoints
  const registry = new EtcdRegistry({ ...etcd, endpoints })
  cleanup.push(() => {
    registry.close()
  })
  const ended = new AbortController()
  return {
    ...parts,
    stop: AbortSignal.any([parts.stop, ended.signal]),
    end: () => {
      ended.abort('end')
    },
    flags,
    prefix,
    places,
    registry,
    endpoints,
    state,
    journal,
    actions,
    questions,
    leaseTtlSeconds,
    renewMarginMs,
  }
}

/** flannel's limits, in minutes: below its lease time of 24 h. Never more than half of ours. */
function readRenewMargin(minutes: number, ttlSeconds: number): number {
  if (minutes > 0 && minutes < 1440)
    return Math.min(minutes * 60_000, (ttlSeconds * 1000) / 2)
  throw new StartError(
    `--subnet-lease-renew-margin is ${minutes}; it must be between 1 and 1439 minutes`,
  )
}

const SECONDS = { s: 1, m: 60, h: 3600 } as const

/** Longer than flannel's would strand a subnet, shorter would load etcd. Throws UsageError. */
function readLeaseTtl(text: string): number {
  const [, number, unit] = /^(\d+)([smh])$/.exec(text) ?? []
  const seconds = Number(number) * SECONDS[(unit ?? 's') as keyof typeof SECONDS]
  if (seconds >= 60 && seconds <= 86_400) return seconds
  throw new UsageError(
    `--subnet-lease-ttl is ${JSON.stringify(text)}; it takes 60s to 24h`,
  )
}

function takeLocks(places: Places, flags: DaemonFlags, cleanup: Cleanup): void {
  const take = (lock: FileLock | undefined, why: string): void => {
    if (lock === undefined) throw new StartError(why)
    cleanup.push(() => {
      lock.release()
    })
  }
  take(
    lockPlaces(places),
    `another flanneld with --etcd-prefix ${flags['etcd-prefix']} runs on this host; give this one a prefix or a --run-dir of its own`,
  )
  take(
    lockSubnetFile(flags),
    `another flanneld on this host writes ${flags['subnet-file']}; give this one a --subnet-file of its own`,
  )
}
