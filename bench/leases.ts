/**
 * What leases cost: a network of 10,000 and of 50,000 hosts, in a real etcd,
 * seen by one daemon's engine. npm run bench -- leases
 */
import { setTimeout as delay } from 'node:timers/promises'
import { RemoteSelector } from '../lib/backend/remotes.js'
import { systemClock } from '../lib/subnet/clock.js'
import { EtcdRegistry } from '../lib/subnet/etcd-registry.js'
import { LeaseTable } from '../lib/subnet/lease-table.js'
import { LeaseView } from '../lib/subnet/lease-view.js'
import { parseNetworkConfig } from '../lib/subnet/network-config.js'
import type { Registry, Write } from '../lib/subnet/registry.js'
import { subnetFromPrefixes } from '../lib/subnet/subnet-key.js'
import { parsePrefix } from '../lib/subnet/prefix.js'
import { silent } from '../test/helpers/log.js'
import { RealEtcd } from '../test/helpers/real-etcd.js'
import { median, formatTable } from './table.js'

const PREFIX = '/net'
const CONFIG = parseNetworkConfig('{"Network":"10.0.0.0/8"}')
const OWN = {
  key: `${PREFIX}/subnets/10.255.254.0-24`,
  subnet: subnetFromPrefixes([parsePrefix('10.255.254.0/24')]),
}
const ROUNDS = 5
const CHANGES = 200
const BATCH = 100

/** The record of host number `index`. */
function record(index: number, leaseId: string, port = 0): Write {
  const subnet = `10.${(index >> 8) + 1}.${index & 255}.0`
  const publicIp = `172.${16 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`
  const data = { PublicIP: publicIp, PublicIPv6: null, HostID: `host-${index}-${port}` }
  return {
    kind: 'put',
    key: `${PREFIX}/subnets/${subnet}-24`,
    value: JSON.stringify(data),
    leaseId,
  }
}

async function fill(registry: Registry, count: number): Promise<string> {
  const leaseId = await registry.grantLease(86_400)
  for (let first = 0; first < count; first += BATCH) {
    const writes = Array.from({ length: Math.min(BATCH, count - first) }, (_, index) =>
      record(first + index, leaseId),
    )
    await registry.commit([], writes)
  }
  return leaseId
}

async function timed(act: () => Promise<void> | void): Promise<number> {
  const begin = performance.now()
  await act()
  return performance.now() - begin
}

/** A registry that counts what it is asked. */
function counting(registry: Registry): { readonly registry: Registry; calls: number } {
  const counted = { registry, calls: 0 }
  counted.registry = new Proxy(registry, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => {
        counted.calls += 1
        return Reflect.apply(value, target, args)
      }
    },
  })
  return counted
}

async function measure(count: number): Promise<readonly string[]> {
  const etcd = await RealEtcd.open()
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  try {
    const leaseId = await fill(registry, count)
    globalThis.gc?.()
    const memoryBefore = process.memoryUsage().rss
    let selector = new RemoteSelector(OWN, CONFIG, '')

    // From nothing to every remote known and chosen.
    const counted = counting(registry)
    const clock = systemClock(() => performance.now())
    const starts: number[] = []
    let view = new LeaseView({ registry, prefix: PREFIX, clock, log: silent })
    let stop = new AbortController()
    for (let round = 0; round < ROUNDS; round++) {
      stop.abort()
      stop = new AbortController()
      view = new LeaseView({
        registry: counted.registry,
        prefix: PREFIX,
        clock,
        log: silent,
      })
      starts.push(
        await timed(async () => {
          const listed = new Promise<void>(resolve => {
            view.subscribe(resolve)
          })
          void view.run(stop.signal)
          await listed
          selector = new RemoteSelector(OWN, CONFIG, '')
          selector.select(view.table.records())
        }),
      )
      if (view.table.records().length !== count) throw new Error('not all are there')
    }
    const { calls } = counted
    globalThis.gc?.()
    const megabytes = (process.memoryUsage().rss - memoryBefore) / (1 << 20)

    // A list again, as after a cut: everything compared with what is known.
    const snapshot = await registry.list(`${PREFIX}/subnets/`)
    const table = new LeaseTable()
    table.replace(snapshot)
    const diffs: number[] = []
    for (let round = 0; round < ROUNDS; round++)
      diffs.push(
        await timed(() => {
          table.replace(snapshot)
        }),
      )

    // One change after the other, from the write to the remotes chosen anew.
    const latencies: number[] = []
    await delay(200) // the watch of the last view stands
    const cpu = process.cpuUsage()
    for (let index = 0; index < CHANGES; index++) {
      latencies.push(
        await timed(async () => {
          const heard = new Promise<void>(resolve => {
            const forget = view.subscribe(() => {
              forget()
              resolve()
            })
          })
          await registry.commit([], [record(index, leaseId, index + 1)])
          await heard
          selector.select(view.table.records())
        }),
      )
    }
    const { user, system } = process.cpuUsage(cpu)
    stop.abort()
    return [
      count.toLocaleString('en'),
      `${median(starts).toFixed(0)} ms`,
      `${median(diffs).toFixed(0)} ms`,
      `${median(latencies).toFixed(1)} ms`,
      `${((user + system) / 1000 / CHANGES).toFixed(1)} ms`,
      `${megabytes.toFixed(0)} MB`,
      String(calls / ROUNDS),
    ]
  } finally {
    registry.close()
    await etcd.close()
  }
}

const rows = []
for (const count of [10_000, 50_000]) rows.push(await measure(count))
console.log(
  formatTable(
    [
      'leases',
      'start: list, read, choose',
      'list again and compare',
      'one change, write to choice',
      'CPU per change',
      'memory',
      'calls to start',
    ],
    rows,
  ),
)
process.exit(0)
