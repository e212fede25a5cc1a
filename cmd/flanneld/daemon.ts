import type { Logger } from 'pino'
import type { Clock } from '../../lib/subnet/clock.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import type { Registry } from '../../lib/subnet/registry.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { Cleanup } from './cleanup.js'
import { startEmbeddedEtcd } from './embedded-etcd.js'
import { readEtcdOptions } from './etcd-options.js'
import type { FLANNELD_FLAGS } from './flag-table.js'
import { joinNetwork } from './join-network.js'
import type { Flags } from './parse-flags.js'
import { type Places, lockPlaces, makePlaces, placesOf } from './places.js'
import { serveNetwork } from './serve-network.js'
import { DaemonState } from './state.js'
import { openHealthServer, openStatusServer } from './status-server.js'
import { notifySystemd } from './systemd-notify.js'

export type DaemonFlags = Flags<typeof FLANNELD_FLAGS>

/** What every part of a running daemon needs. */
export interface DaemonContext {
  readonly flags: DaemonFlags
  /** Clean etcd prefix. */
  readonly prefix: string
  readonly places: Places
  readonly registry: Registry
  readonly endpoints: readonly string[]
  readonly state: DaemonState
  readonly cleanup: Cleanup
  readonly clock: Clock
  readonly log: Logger
  /** Aborts when the daemon is to stop; its reason is a StopHow. */
  readonly stop: AbortSignal
}

/** What becomes of the packets when the daemon stops: see Backend.close. */
export type StopHow = 'keep' | 'end'

/**
 * Runs a daemon until `stop` aborts; rejects when it cannot start or go on.
 *
 *   start: lock · status and health servers · embedded etcd · registry ·
 *          configuration · interface · lease · device · firewall · subnet.env · READY
 *   stop:  the same backwards; rules, routes and subnet.env stay
 */
export async function runDaemon(
  flags: DaemonFlags,
  parts: { readonly clock: Clock; readonly log: Logger; readonly stop: AbortSignal },
): Promise<void> {
  const cleanup = new Cleanup()
  try {
    const context = await open(flags, { ...parts, cleanup })
    const membership = await joinNetwork(context)
    if (membership !== undefined) await serveNetwork(context, membership)
    context.state.phase = 'stopping'
    notifySystemd('STOPPING=1', parts.log)
  } finally {
    await cleanup.run()
  }
}

/** Takes this daemon's places on the host and finds etcd. */
async function open(
  flags: DaemonFlags,
  parts: Pick<DaemonContext, 'clock' | 'log' | 'stop' | 'cleanup'>,
): Promise<DaemonContext> {
  const { cleanup, log } = parts
  checkRenewMargin(flags['subnet-lease-renew-margin'])
  const etcd = readEtcdOptions(flags)
  const prefix = cleanPrefix(flags['etcd-prefix'])
  const places = placesOf({ ...flags, 'etcd-prefix': prefix })
  await makePlaces(places.stateDir, places.runDir)
  takeLock(places, prefix, cleanup)

  const state = new DaemonState()
  const status = await openStatusServer(places.statusSocket, () => state.toJson())
  cleanup.push(() => status.close())
  if (flags['healthz-port'] > 0) {
    const address = { host: flags['healthz-ip'], port: flags['healthz-port'] }
    const health = await openHealthServer(address, state, log)
    cleanup.push(() => health.close())
  }

  const embedded = await startEmbeddedEtcd(flags, places, parts)
  const endpoints = embedded === undefined ? etcd.endpoints : [embedded]
  const registry = new EtcdRegistry({ ...etcd, endpoints })
  cleanup.push(() => {
    registry.close()
  })
  return { ...parts, flags, prefix, places, registry, endpoints, state }
}

/** flannel's limits, in minutes: below its lease time of 24 h. */
function checkRenewMargin(minutes: number): void {
  if (minutes > 0 && minutes < 1440) return
  throw new RangeError(
    `--subnet-lease-renew-margin is ${minutes}; it must be between 1 and 1439 minutes`,
  )
}

function takeLock(places: Places, prefix: string, cleanup: Cleanup): void {
  const lock = lockPlaces(places)
  if (lock === undefined) {
    throw new Error(
      `another flanneld with --etcd-prefix ${prefix} runs on this host; give this one a prefix or a --run-dir of its own`,
    )
  }
  cleanup.push(() => {
    lock.release()
  })
}
