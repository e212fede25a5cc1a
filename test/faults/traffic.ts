import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { LabContainer } from '../../cmd/flannelctl/lab/host.js'
import { AskedProcess } from './asked-process.js'

const PROGRAM = fileURLToPath(new URL('./traffic-main.js', import.meta.url))
const POLL_MS = 100
const START_DEADLINE_MS = 60_000

/** What one container has seen since `begin`. Times in ms of CLOCK_MONOTONIC. */
export interface TrafficReport {
  /** Probes, one a millisecond. */
  readonly sent: number
  /** Without a reply within a second and a half. */
  readonly lost: number
  /** Replies that came later than that, or twice. */
  readonly late: number
  /** The longest time without a reply, and when it began. */
  readonly gapMs: number
  readonly gapAtMs: number
  /** When the last probe was sent that was lost. */
  readonly lastLostMs: number | undefined
  /** Since the last reply. */
  readonly silentMs: number
  readonly transfers: number
  /** That ended early or stood for 30 seconds. */
  readonly brokenTransfers: number
  /** That brought something else than was sent. */
  readonly wrongTransfers: number
  readonly queries: number
  /** Without an answer to three attempts of a second. */
  readonly failedQueries: number
}

export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** Traffic of every container to the next, in a ring. */
export class Traffic {
  readonly #talkers: AskedProcess[]

  private constructor(talkers: AskedProcess[]) {
    this.#talkers = talkers
  }

  /** Flows when this resolves. */
  static async start(containers: readonly LabContainer[]): Promise<Traffic> {
    const talkers = containers.map((from, index) => {
      const to = containers[(index + 1) % containers.length]
      return AskedProcess.start(from.namespace, PROGRAM, to?.address ?? '')
    })
    const traffic = new Traffic(await Promise.all(talkers))
    if ((await traffic.flows(1000, START_DEADLINE_MS)) === undefined) {
      const reports = await traffic.report()
      await traffic.close()
      throw new Error(`no steady traffic: ${JSON.stringify(reports)}`)
    }
    return traffic
  }

  async begin(): Promise<void> {
    await Promise.all(this.#talkers.map(talker => talker.ask('begin')))
  }

  async report(): Promise<TrafficReport[]> {
    const answers = await Promise.all(this.#talkers.map(talker => talker.ask('report')))
    return answers.map(answer => JSON.parse(answer) as TrafficReport)
  }

  /**
   * Waits until nothing has been lost for a time. Resolves with the moment since when, or
   * undefined when that does not happen.
   */
  async flows(quietMs: number, deadlineMs: number): Promise<number | undefined> {
    const startMs = nowMs()
    for (;;) {
      await sleep(POLL_MS)
      const reports = await this.report()
      const now = nowMs()
      const sinceMs = Math.max(
        startMs,
        ...reports.map(({ lastLostMs = 0 }) => lastLostMs),
      )
      const isFlowing = reports.every(
        ({ silentMs, sent }) => silentMs < POLL_MS && sent > 0,
      )
      // A probe counts as lost that long after it was sent.
      if (isFlowing && now - sinceMs > quietMs + 1500) return sinceMs
      if (now - startMs > deadlineMs) return undefined
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#talkers.map(talker => talker.close()))
  }
}
