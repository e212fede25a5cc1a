import type { Test } from 'tap'
import type { LabDaemon } from '../../cmd/flannelctl/lab/daemon.js'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { type Lab, type LabOptions, openLab } from '../../cmd/flannelctl/lab/lab.js'
import { type RunningPing, startPing } from '../../cmd/flannelctl/lab/ping.js'
import { tellLogs } from '../helpers/tell-logs.js'
import { waitFor } from '../helpers/wait-for.js'

/** A lab that goes away with the test file. Its name is the file's own. */
export async function openTestLab(
  t: Test,
  options: LabOptions & { readonly name: string },
): Promise<Lab> {
  // Whoever counts packets counts his own.
  const flags = ['--probe-rate=0', ...(options.flags ?? [])]
  const lab = await openLab({ ...options, flags })
  t.teardown(async () => {
    await tellLogs(
      t,
      lab.hosts.map(host => host.daemon.logFile),
    )
    await lab.close()
  })
  return lab
}

/** Whether a container reaches another now, in a second. */
export async function reaches(from: LabHost, to: LabHost): Promise<boolean> {
  const [result] = await from.container.ping([to.container.address], { timeoutMs: 1000 })
  return result?.received === 1
}

/** Steady traffic from one host's container to another's, flowing when this resolves. */
export async function startTraffic(
  from: LabHost,
  to: LabHost,
  intervalMs = 5,
  timeoutMs = 10_000,
): Promise<RunningPing> {
  await waitFor(`${from.name} reaches ${to.name}`, () => reaches(from, to))
  const received = async (): Promise<number> =>
    (await pathOf(to.daemon)).traffic['receivedPackets'] ?? 0
  const before = await received()
  const traffic = startPing(from.container.namespace, [to.container.address], {
    count: 1_000_000,
    intervalMs,
    timeoutMs,
  })
  await waitFor('packets flow', async () => (await received()) > before + 10)
  return traffic
}

/** Ends the traffic and says how many packets it sent and how many were lost. */
export async function stopTraffic(
  traffic: RunningPing,
): Promise<{ sent: number; lost: number }> {
  const [result] = await traffic.stop()
  if (result === undefined) throw new Error('no traffic')
  return { sent: result.sent, lost: result.sent - result.received }
}

/** What a daemon's status says about its packet path. */
export interface PathStatus {
  readonly pid: number
  /** Of each queue, if there is more than one. */
  readonly queues?: readonly {
    readonly pid: number
    readonly traffic: Readonly<Record<string, number>>
  }[]
  readonly traffic: Readonly<Record<string, number>>
  readonly drops: Readonly<Record<string, number>>
  readonly offenders: readonly Readonly<Record<string, unknown>>[]
}

/** What one says that may be about to be replaced. */
export async function pathOf(daemon: LabDaemon): Promise<PathStatus> {
  return await waitFor('the packet path', async () => {
    const { backend } = await daemon.status()
    return (backend as { path?: PathStatus } | undefined)?.path
  })
}

/** The subnet that a daemon holds: 10.5.72.0/24. */
export async function subnetOf(daemon: LabDaemon): Promise<string> {
  const { lease } = await daemon.status()
  if (lease === undefined) throw new Error('the daemon holds no lease')
  return lease.subnet
}

/** True while a process runs. */
export function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
