/** What the daemon knows of itself, for Prometheus (text format 0.0.4). */
import { readFile } from 'node:fs/promises'
import {
  Counter,
  Gauge,
  type MetricConfiguration,
  Registry,
  collectDefaultMetrics,
} from 'prom-client'
import { z } from 'zod'
import type { TrafficCounter } from '../../lib/encap/path-control.js'
import type { StatusReport } from './status-server.js'
import { VERSION } from './version.js'

/** Of more remotes than this the ways are told by their number alone. */
const MOST_REMOTES = 500

/** proc_pid_stat(5): fields of a process, counted from behind the name in brackets. */
const UTIME = 11
const STIME = 12
const RSS_PAGES = 21

/** Linux's on every machine that Node.js runs on (sysconf(3)). */
const TICKS_PER_SECOND = 100
const PAGE_BYTES = 4096

const counts = z.record(z.string(), z.number()).catch({})

/** What of the status becomes figures; parts that are not there are left out. */
const statusSchema = z.looseObject({
  phase: z.string(),
  etcdReachable: z.boolean(),
  troubles: z.record(z.string(), z.string()),
  notes: z.record(z.string(), z.string()),
  ignoredRecords: z.array(z.unknown()),
  counters: counts.optional(),
  lease: z
    .looseObject({
      subnet: z.string(),
      expiresInSeconds: z.number().nullable(),
      forwardingForSeconds: z.number(),
    })
    .optional(),
  backend: z
    .looseObject({
      type: z.string(),
      mtu: z.number().optional(),
      repairs: z.number().optional(),
      path: z
        .looseObject({
          pid: z.number(),
          traffic: counts,
          drops: counts,
        })
        .optional(),
      verified: z.looseObject({ drops: counts }).optional(),
    })
    .optional(),
  probes: z.looseObject({ sent: z.number() }).optional(),
  remotes: z
    .array(
      z.looseObject({
        subnet: z.string(),
        path: z
          .looseObject({
            state: z.string(),
            roundTripMs: z.number().nullable(),
            loss: z.number().nullable(),
            pathMtu: z.number().nullable(),
          })
          .optional(),
      }),
    )
    .optional(),
})

type Status = z.infer<typeof statusSchema>

const PREFIX = 'flanneld_'

/** Counters of the status by name, and what they are. */
const COUNTERS = {
  leaseRenewals: ['lease_renewals_total', 'Times that the lease was renewed.'],
  recordLists: [
    'record_lists_total',
    'Times that all records were listed: at first, and after each watch that was cut.',
  ],
  applies: ['applies_total', 'Lists of remotes that the backend has taken.'],
  applySeconds: ['apply_seconds_total', 'Time that the backend needed for them.'],
  etcdCalls: ['etcd_calls_total', 'Calls to etcd.'],
  etcdFailures: ['etcd_failures_total', 'Calls to etcd that failed.'],
  etcdSeconds: ['etcd_call_seconds_total', 'Time that calls to etcd took.'],
} as const

/** Those of the packet path. */
const TRAFFIC: Readonly<Record<TrafficCounter, readonly [string, string]>> = {
  sentPackets: ['sent_packets', 'Packets sent to remotes.'],
  sentBytes: ['sent_bytes', 'Bytes of those packets.'],
  sendCalls: ['send_calls', 'System calls that sent them.'],
  receivedPackets: ['received_packets', 'Packets of remotes that went to the kernel.'],
  receivedBytes: ['received_bytes', 'Bytes of those packets.'],
  receiveCalls: ['receive_calls', 'System calls that received them.'],
  tunReads: ['tun_reads', 'System calls that took packets from the kernel.'],
  tunWrites: ['tun_writes', 'System calls that gave packets to the kernel.'],
  icmpErrors: ['icmp_errors', 'ICMP errors that told senders what is wrong.'],
  cutPackets: ['cut_packets', 'Packets that super-packets were cut into.'],
  joinedPackets: ['joined_packets', 'Packets that were joined to super-packets.'],
  socketDrops: ['socket_drops', 'Datagrams that found the buffer of the socket full.'],
  gsoFallbacks: ['gso_fallbacks', 'Sends that had to do without UDP_SEGMENT.'],
}

/** The metrics of one daemon. */
export class Metrics {
  readonly contentType: string
  readonly #registry = new Registry()
  readonly #report: StatusReport

  constructor(report: StatusReport) {
    this.#report = report
    this.contentType = this.#registry.contentType
    // CPU, memory, descriptors and event loop of this process, by prom-client's names.
    collectDefaultMetrics({ register: this.#registry })
  }

  /** Throws ZodError when the status is not what it is thought to be. */
  async text(): Promise<string> {
    const status = statusSchema.parse(await this.#report())
    const now = new Registry()
    const figures = new Figures(now)
    describeDaemon(figures, status)
    describePath(figures, status)
    describeRemotes(figures, status)
    await describePathProcess(figures, status.backend?.path?.pid)
    return `${await now.metrics()}\n${await this.#registry.metrics()}`
  }
}

/** Figures of one moment. */
class Figures {
  readonly #registry: Registry

  constructor(registry: Registry) {
    this.#registry = registry
  }

  gauge(name: string, help: string, value: number, labels: Labels = {}): void {
    this.#metric(Gauge, name, help, labels).set(labels, value)
  }

  counter(name: string, help: string, value: number, labels: Labels = {}): void {
    this.#metric(Counter, name, help, labels).inc(labels, value)
  }

  /** The one of that name, made when it is told of first. */
  #metric<Kind extends Gauge | Counter>(
    Kind: new (options: MetricConfiguration<string>) => Kind,
    name: string,
    help: string,
    labels: Labels,
  ): Kind {
    const known = this.#registry.getSingleMetric(PREFIX + name)
    if (known instanceof Kind) return known
    return new Kind({
      name: PREFIX + name,
      help,
      labelNames: Object.keys(labels),
      registers: [this.#registry],
    })
  }
}

type Labels = Readonly<Record<string, string>>

function describeDaemon(figures: Figures, status: Status): void {
  const { phase, troubles, notes, lease, backend, counters, probes } = status
  const isReady = phase === 'ready' && Object.keys(troubles).length === 0
  figures.gauge('info', 'What runs here: always 1.', 1, {
    version: VERSION,
    backend: backend?.type ?? '',
    subnet: lease?.subnet ?? '',
  })
  figures.gauge('ready', 'Whether packets can flow, as /readyz says.', Number(isReady))
  figures.gauge('etcd_reachable', 'Whether etcd answers.', Number(status.etcdReachable))
  figures.gauge('troubles', 'Parts that do not work.', Object.keys(troubles).length)
  figures.gauge('notes', 'What an operator should know.', Object.keys(notes).length)
  figures.gauge(
    'ignored_records',
    'Records in etcd that this host cannot use.',
    status.ignoredRecords.length,
  )
  if (lease !== undefined) {
    const { expiresInSeconds, forwardingForSeconds } = lease
    if (expiresInSeconds !== null)
      figures.gauge(
        'lease_expires_seconds',
        'Until the lease ends, if nobody renews it.',
        expiresInSeconds,
      )
    figures.gauge(
      'permit_seconds',
      'Until this host stops forwarding, if etcd stays away.',
      forwardingForSeconds,
    )
  }
  if (backend?.mtu !== undefined)
    figures.gauge('overlay_mtu_bytes', 'Longest packet of the overlay.', backend.mtu)
  if (backend?.repairs !== undefined)
    figures.counter(
      'repairs_total',
      'Objects in the kernel that others had changed, put back.',
      backend.repairs,
    )
  for (const [key, [name, help]] of Object.entries(COUNTERS)) {
    const value = counters?.[key]
    if (value !== undefined) figures.counter(name, help, value)
  }
  if (probes !== undefined)
    figures.counter(
      'probes_sent_total',
      'Packets that measure the ways to remotes.',
      probes.sent,
    )
}

function describePath(figures: Figures, { backend }: Status): void {
  for (const [key, [name, help]] of Object.entries(TRAFFIC)) {
    const value = backend?.path?.traffic[key]
    if (value !== undefined) figures.counter(`path_${name}_total`, help, value)
  }
  const drops = backend?.path?.drops ?? backend?.verified?.drops ?? {}
  for (const [reason, count] of Object.entries(drops))
    figures.counter(
      'drops_total',
      'Packets that were dropped (flannelctl drops).',
      count,
      {
        reason,
      },
    )
}

function describeRemotes(figures: Figures, { remotes }: Status): void {
  if (remotes === undefined) return
  const states = new Map<string, number>([
    ['up', 0],
    ['silent', 0],
    ['unreachable', 0],
    ['unknown', 0],
  ])
  for (const { path } of remotes) {
    const state = path?.state ?? 'unknown'
    states.set(state, (states.get(state) ?? 0) + 1)
  }
  for (const [state, count] of states)
    figures.gauge('remotes', 'Other hosts, by whether packets reach them.', count, {
      state,
    })
  if (remotes.length > MOST_REMOTES) return
  for (const { subnet, path } of remotes) {
    const labels = { subnet }
    if (path === undefined) continue
    const { roundTripMs, loss, pathMtu } = path
    if (roundTripMs !== null)
      figures.gauge(
        'remote_rtt_seconds',
        'To the public IP and back.',
        roundTripMs / 1000,
        labels,
      )
    if (loss !== null)
      figures.gauge('remote_loss_ratio', 'Of the latest twenty pings.', loss, labels)
    if (pathMtu !== null)
      figures.gauge(
        'remote_path_mtu_bytes',
        'Longest packet that gets there.',
        pathMtu,
        labels,
      )
  }
}

/** The packet path is a process of its own. */
async function describePathProcess(
  figures: Figures,
  pid: number | undefined,
): Promise<void> {
  if (pid === undefined) return
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  const fields = text
    ?.slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number)
  if (fields === undefined) return
  const ticks = (fields[UTIME] ?? 0) + (fields[STIME] ?? 0)
  figures.counter(
    'path_cpu_seconds_total',
    'CPU time of the packet path.',
    ticks / TICKS_PER_SECOND,
  )
  figures.gauge(
    'path_resident_memory_bytes',
    'Memory of the packet path.',
    (fields[RSS_PAGES] ?? 0) * PAGE_BYTES,
  )
}
