import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { LabContainer } from '../../cmd/flannelctl/lab/host.js'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'

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

/** The traffic that one container has with another. */
class Talker {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: AsyncIterator<string>

  constructor(from: LabContainer, to: string) {
    const command = inside(from.namespace, [process.execPath, PROGRAM, to])
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  async ready(): Promise<void> {
    await this.#lines.next()
  }

  async ask(order: 'begin' | 'report'): Promise<TrafficReport> {
    this.#child.stdin.write(`${order}\n`)
    const { value } = (await this.#lines.next()) as { value: string }
    return JSON.parse(value) as TrafficReport
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exit
  }
}

/** Traffic of every container to the next, in a ring. */
export class Traffic {
  readonly #talkers: Talker[]

  private constructor(talkers: Talker[]) {
    this.#talkers = talkers
  }

  /** Flows when this resolves. */
  static async start(containers: readonly LabContainer[]): Promise<Traffic> {
    const talkers = containers.map((from, index) => {
      const to = containers[(index + 1) % containers.length]
      return new Talker(from, to?.address ?? '')
    })
    const traffic = new Traffic(talkers)
    await Promise.all(talkers.map(talker => talker.ready()))
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
    return await Promise.all(this.#talkers.map(talker => talker.ask('report')))
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
