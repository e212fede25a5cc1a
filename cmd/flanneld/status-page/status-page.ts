import { hostname } from 'node:os'
import { ROUTE_PROTOCOL } from '../../../lib/backend/route-protocol.js'
import { type Route, listRoutes } from '../../../lib/linux/ip-routes.js'
import type { Family } from '../../../lib/subnet/prefix.js'
import { readJournal } from '../journal.js'
import type { StatusReport } from '../status-server.js'
import { statusSchema } from '../status-schema.js'
import { VERSION } from '../version.js'
import { renderPage } from './page.js'
import { TrafficHistory, readDeviceCounters } from './traffic-history.js'

/** However many look, the host is asked no more often. */
const FRESH_MS = 1000

/** Some thousand routes as ip(8) writes them in JSON. */
const MOST_ROUTE_BYTES = 512 << 10

/** The page of this host, made when somebody looks. */
export class StatusPage {
  readonly #report: StatusReport
  readonly #journalFile: string
  readonly #history = new TrafficHistory()
  #latest: Promise<string> | undefined
  #madeAt = -Infinity
  #isMaking = false

  constructor(report: StatusReport, journalFile: string) {
    this.#report = report
    this.#journalFile = journalFile
  }

  /** Throws ZodError when the status is not what it is thought to be, and CommandError. */
  async html(): Promise<string> {
    const isOld = performance.now() - this.#madeAt >= FRESH_MS
    if (this.#latest === undefined || (isOld && !this.#isMaking)) {
      this.#isMaking = true
      this.#latest = this.#make().finally(() => {
        this.#isMaking = false
        this.#madeAt = performance.now()
      })
    }
    return await this.#latest
  }

  async #make(): Promise<string> {
    const [report, events, routes4, routes6] = await Promise.all([
      this.#report(),
      readJournal(this.#journalFile),
      readRoutes(4),
      // A kernel without IPv6 has none.
      readRoutes(6).catch(() => []),
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

/** Of a router with the routes of the whole Internet only those that are ours. */
async function readRoutes(family: Family): Promise<Route[]> {
  try {
    return await listRoutes(family, { maxOutput: MOST_ROUTE_BYTES })
  } catch {
    return await listRoutes(family, { protocol: ROUTE_PROTOCOL })
  }
}
