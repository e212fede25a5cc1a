import { setTimeout as sleep } from 'node:timers/promises'
import { type Backend, Cluster, type ClusterOptions } from './cluster.js'
import type { Fault, Setting } from './faults.js'
import { findViolations, remember } from './invariants.js'
import { type TrafficReport, nowMs } from './traffic.js'

/** Without loss for this long, it has recovered. */
const QUIET_MS = 1000
const RECOVERY_DEADLINE_MS = 90_000
/** What has come back may still be at its last entry. */
const INVARIANTS_DEADLINE_MS = 30_000

/** Probes of a busy machine that come late are no gap of the network's. */
const JITTER_MS = 250

export interface Outcome {
  readonly backend: Backend
  readonly fault: string
  readonly sent: number
  readonly lost: number
  /** The longest time in which one of the containers got no reply. */
  readonly gapMs: number
  /** From the end of the fault to the last packet that was lost, 0 if none was; undefined if it went on. */
  readonly recoverMs: number | undefined
  /** From the end of the fault until everything was as it should be. */
  readonly settleMs: number
  readonly brokenTransfers: number
  readonly failedQueries: number
  /** What is not as it should be; empty when all is well. */
  readonly failures: readonly string[]
}

const SETTINGS: Record<Setting, Omit<ClusterOptions, 'backend'>> = {
  'one member': { members: 1 },
  'three members': { members: 3 },
  proxy: { members: 1, isProxied: true },
  'short leases': { members: 1, flags: ['--subnet-lease-ttl=60s'] },
}

/**
 * Tries each fault with a backend, those of one setting on one cluster.
 *
 * @param patience how many times longer it may take, where other work is done meanwhile.
 */
export async function* tryFaults(
  backend: Backend,
  faults: readonly Fault[],
  patience = 1,
): AsyncGenerator<Outcome> {
  for (const setting of Object.keys(SETTINGS) as Setting[]) {
    const chosen = faults.filter(
      fault => fault.setting === setting && (fault.backends?.includes(backend) ?? true),
    )
    if (chosen.length === 0) continue
    let cluster = await Cluster.open({ backend, ...SETTINGS[setting] })
    try {
      for (const fault of chosen) {
        const outcome = await tryFault(cluster, fault, patience)
        yield outcome
        if (outcome.failures.length === 0 || fault === chosen.at(-1)) continue
        // What one fault has left broken must not be held against the next.
        await cluster.close()
        cluster = await Cluster.open({ backend, ...SETTINGS[setting] })
      }
    } finally {
      await cluster.close()
    }
  }
}

async function tryFault(
  cluster: Cluster,
  fault: Fault,
  patience: number,
): Promise<Outcome> {
  const { traffic, backend } = cluster
  const memory = await remember(cluster)
  await traffic.begin()
  const failures: string[] = []
  await fault.break(cluster).catch((error: unknown) => {
    failures.push(`while it was broken: ${(error as Error).message}`)
  })
  const overMs = nowMs()
  await fault.mend?.(cluster).catch((error: unknown) => {
    failures.push(`while it was mended: ${(error as Error).message}`)
  })
  const flowsSinceMs = await traffic.flows(QUIET_MS, RECOVERY_DEADLINE_MS)
  const reports = await traffic.report()
  const violations = await settle(cluster, memory)
  const settledMs = nowMs()
  failures.push(...violations)

  const lost = sum(reports, ({ lost }) => lost)
  const gapMs = Math.max(...reports.map(report => report.gapMs))
  const lastLostMs = Math.max(...reports.map(({ lastLostMs = 0 }) => lastLostMs))
  const { interrupts = false } = fault
  const recoverMs =
    flowsSinceMs === undefined ? undefined : Math.max(0, lastLostMs - overMs)
  if (sum(reports, ({ wrongTransfers }) => wrongTransfers) > 0)
    failures.push('a transfer brought something else than was sent')
  if (recoverMs === undefined)
    failures.push(`packets are lost ${RECOVERY_DEADLINE_MS / 1000} s after it was mended`)
  else if (interrupts && recoverMs > (fault.recoverMs ?? 0) * patience)
    failures.push(`packets were lost for ${Math.round(recoverMs)} ms after it was mended`)
  // A path that other work keeps from its core for a third of a second loses packets.
  if (!interrupts && lost > 0 && patience === 1)
    failures.push(`${lost} packets were lost`)
  if (!interrupts && gapMs > JITTER_MS * patience)
    failures.push(`no packet came for ${Math.round(gapMs)} ms`)
  if (failures.length > 0) failures.push(`logs in ${await cluster.keepLogs()}`)
  return {
    backend,
    fault: fault.name,
    sent: sum(reports, ({ sent }) => sent),
    lost,
    gapMs,
    recoverMs,
    settleMs: settledMs - overMs,
    brokenTransfers: sum(reports, ({ brokenTransfers }) => brokenTransfers),
    failedQueries: sum(reports, ({ failedQueries }) => failedQueries),
    failures,
  }
}

/** Waits until every invariant holds; what still does not, at the end. */
export async function settle(
  cluster: Cluster,
  memory: Awaited<ReturnType<typeof remember>>,
): Promise<string[]> {
  const end = performance.now() + INVARIANTS_DEADLINE_MS
  for (;;) {
    const violations = await findViolations(cluster, memory).catch((error: unknown) => [
      `what there is cannot be read: ${(error as Error).message}`,
    ])
    if (violations.length === 0 || performance.now() > end) return violations
    await sleep(500)
  }
}

function sum(
  reports: readonly TrafficReport[],
  value: (report: TrafficReport) => number,
): number {
  return reports.reduce((total, report) => total + value(report), 0)
}
