import { hostname } from 'node:os'
import { listRoutes } from '../../../lib/linux/iproute.js'
import { readJournal } from '../journal.js'
import type { StatusReport } from '../status-server.js'
import { statusSchema } from '../status-schema.js'
import { VERSION } from '../version.js'
import { renderPage } from './page.js'
import { TrafficHistory, readDeviceCounters } from './traffic-history.js'

/** However many look, the host is asked no more often. */
const FRESH_MS = 1000

/** The page of this host, made when somebody looks. */
export class StatusPage {
  readonly #report: StatusReport
  readonly #journalFile: string
  readonly #history = new TrafficHistory()
  #latest: Promise<string> | undefined
  #madeAt = -Infinity

  constructor(report: StatusReport, journalFile: string) {
    this.#report = report
    this.#journalFile = journalFile
  }

  /** Throws ZodError when the status is not what it is thought to be, and CommandError. */
  async html(): Promise<string> {
    const now = performance.now()
    if (this.#latest === undefined || now - this.#madeAt >= FRESH_MS) {
      this.#madeAt = now
      this.#latest = this.#make()
    }
    return await this.#latest
  }

  async #make(): Promise<string> {
    const [report, events, routes4, routes6] = await Promise.all([
      this.#report(),
      readJournal(this.#journalFile),
      listRoutes(4),
      // A kernel without IPv6 has none.
      listRoutes(6).catch(() => []),
    ])
    const status = statusSchema.parse(report)
    const device = status.backend?.device
    const counters = device && (await readDeviceCounters(device))
    if (counters) this.#history.note(device, counters, performance.now())
    return renderPage({
      hostname: hostname(),
      version: VERSION,
      status,
      rates: this.#history.rates,
      events,
      routes: [...routes4, ...routes6],
      now: new Date(),
    })
  }
}
