import { DROP_REASONS, type DropReason, type Offender } from '../../encap/drops.js'
import type { ForwardingState } from '../../encap/forwarding-table.js'
import {
  type PathStatistics,
  TRAFFIC_COUNTERS,
  zeroTraffic,
} from '../../encap/path-control.js'
import { runAll } from '../../subnet/loops.js'
import { addressFromBytes, formatAddress } from '../../subnet/prefix.js'
import type { BackendContext } from '../backend.js'
import type { UdpContext } from '../udp.js'
import { listenerPid } from '../../linux/unix-socket.js'
import { queuesLeft, socketPath } from './path-descriptors.js'
import { PathProcess, endLeftPath, findRunning } from './path-process.js'

/** Ends what an earlier daemon left forwarding. */
export async function endLeftPaths(
  context: Pick<BackendContext, 'runDir' | 'clock' | 'log'>,
): Promise<void> {
  for (const queue of await queuesLeft(context)) await endLeftPath(context, queue)
}

/** The processes that an earlier daemon left forwarding. */
export async function findLeftPaths(
  context: Pick<BackendContext, 'runDir'>,
): Promise<number[]> {
  const queues = await queuesLeft(context)
  return queues.flatMap(queue => listenerPid(socketPath(context, queue)) ?? [])
}

/** The packet path of this host: a process for each queue of one device. */
export class PacketPath {
  /** A former daemon told it where the remotes are. */
  readonly wasTakenOver: boolean
  readonly #queues: readonly PathProcess[]

  private constructor(queues: readonly PathProcess[]) {
    this.#queues = queues
    this.wasTakenOver = queues.some(queue => queue.wasTakenOver)
  }

  /** Takes over what a former daemon left running for the same purpose, and starts the rest. */
  static async open(context: UdpContext): Promise<PacketPath> {
    const running = new Map<number, PathProcess>()
    for (const queue of await queuesLeft(context)) {
      const path = await findRunning(context, queue)
      if (path !== undefined) running.set(queue, path)
    }
    const started: PathProcess[] = []
    try {
      let device = [...running.values()][0]?.device
      const queues: PathProcess[] = []
      for (let queue = 0; queue < context.queues; queue++) {
        let path = running.get(queue)
        if (path === undefined) {
          path = new PathProcess(context, { queue, device })
          started.push(path)
          await path.start()
        }
        device = path.device
        queues.push(path)
      }
      return new PacketPath(queues)
    } catch (error) {
      for (const path of started) await path.close('end')
      // These forward: they are not ended for a mishap of ours.
      for (const path of running.values()) await path.close('keep')
      throw error
    }
  }

  get device(): string {
    const [first] = this.#queues
    if (first === undefined) throw new TypeError('a packet path has a queue')
    return first.device
  }

  async forward(state: ForwardingState): Promise<void> {
    await Promise.all(this.#queues.map(queue => queue.forward(state)))
  }

  async permit(untilMs: number): Promise<void> {
    await Promise.all(this.#queues.map(queue => queue.permit(untilMs)))
  }

  /** Replaces processes that died or stopped answering. */
  async supervise(signal: AbortSignal): Promise<void> {
    await runAll(
      signal,
      this.#queues.map(queue => each => queue.supervise(each)),
    )
  }

  async describe(): Promise<Record<string, unknown>> {
    const statistics = await Promise.all(this.#queues.map(queue => queue.statistics()))
    const [pid, ...others] = this.#queues.map(queue => queue.pid)
    return {
      pid,
      ...(others.length > 0 && {
        queues: this.#queues.map((queue, index) => ({
          pid: queue.pid,
          traffic: statistics[index]?.traffic,
        })),
      }),
      ...describeStatistics(statistics),
    }
  }

  async close(how: 'keep' | 'end'): Promise<void> {
    for (const queue of this.#queues) await queue.close(how)
  }
}

/** Of all queues together. */
function describeStatistics(all: readonly PathStatistics[]): Record<string, unknown> {
  const traffic = zeroTraffic()
  const drops: Partial<Record<DropReason, number>> = {}
  for (const queue of all) {
    for (const counter of TRAFFIC_COUNTERS) traffic[counter] += queue.traffic[counter]
    for (const [reason, count] of Object.entries(queue.drops) as [DropReason, number][])
      if (count > 0) drops[reason] = (drops[reason] ?? 0) + count
  }
  const offenders = all.flatMap(queue => queue.offenders.map(describeOffender))
  return { traffic, drops, offenders: offenders }
}

function describeOffender({
  reason,
  outer,
  inner,
  count,
}: Offender): Record<string, unknown> {
  const text = (bytes: Uint8Array): string | null =>
    bytes.length === 0 ? null : formatAddress(addressFromBytes(bytes))
  return { reason: DROP_REASONS[reason], outer: text(outer), inner: text(inner), count }
}
