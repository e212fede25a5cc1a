import type { HeldLease } from '../../lib/subnet/acquire-lease.js'
import { Backoff } from '../../lib/subnet/clock.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import { followPrefix } from '../../lib/subnet/follow-prefix.js'
import { type Host, HostLease } from '../../lib/subnet/host-lease.js'
import { type Loop, runAll } from '../../lib/subnet/loops.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { orderKey } from '../../lib/subnet/orders.js'
import { parseAddress } from '../../lib/subnet/prefix.js'
import type { Registry } from '../../lib/subnet/registry.js'
import {
  configKey,
  formatSubnetKey,
  readSubnetKey,
  subnetsPrefix,
} from '../../lib/subnet/subnet-key.js'
import { type OwnHolder, formatHolder } from '../../lib/subnet/subnet-record.js'
import { ManualClock } from '../fakes/manual-clock.js'
import { MemoryEtcd } from '../fakes/memory-etcd.js'
import { silent } from '../helpers/log.js'
import { BusyRegistry, BusyServer, type Speed } from './busy-server.js'

const PREFIX = '/net'
const TTL_SECONDS = 86_400
const CONFIG = '{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}'

/** Whoever is not ready by then never will be. */
const LIMIT_MS = 3_600_000

/** So many run the whole engine; the others ask for the same. */
const ENGINES = 100

/** How often it is looked whether all are. */
const LOOK_MS = 1000

export interface HerdOptions extends Speed {
  readonly hosts: number
  /** Each begins at some moment of so long a time. */
  readonly spreadMs: number
  /** Lists come in pages, else in one answer. */
  readonly isPaged: boolean
  /** Nobody was there before: all take a subnet. Else all had one before the power was cut. */
  readonly isFirstTime: boolean
}

export interface HerdResult {
  /** Seconds until each that became ready was so, sorted. */
  readonly readyAfter: readonly number[]
  readonly requests: number
  /** In the worst second. */
  readonly mostRequests: number
  readonly sentBytes: number
  /** Calls that got no answer in time. */
  readonly timeouts: number
  /** That are held in the end. */
  readonly subnets: number
  /** Of all records together. */
  readonly listBytes: number
}

/**
 * All hosts start, as when the power comes back, and an etcd
 * of limited speed has to answer them all. Resolves when every one of them is
 * ready, or an hour has passed.
 */
export async function startHerd(options: HerdOptions): Promise<HerdResult> {
  const clock = new ManualClock()
  const etcd = new MemoryEtcd(clock)
  const server = new BusyServer(etcd, options)
  etcd.commit([], [{ kind: 'put', key: configKey(PREFIX), value: CONFIG }])
  const stop = new AbortController()
  const readyAfter: number[] = []
  const begin = clock.now()
  const noteReady = (): void => {
    readyAfter.push((clock.now() - begin) / 1000)
  }
  const starting = Array.from({ length: options.hosts }, (_, index) => {
    const holder = holderOf(index)
    const held = options.isFirstTime ? undefined : recordOf(etcd, holder, index)
    const registry = new BusyRegistry(server, options.isPaged)
    return held !== undefined && index >= ENGINES
      ? askAsEngine({ registry, clock, held, holder, noteReady })
      : runEngine({ registry, clock, held, holder, noteReady })
  })
  const running = runAll(
    stop.signal,
    starting.map(run => async signal => {
      await clock.sleep(clock.random() * options.spreadMs)
      await run(signal)
    }),
  )
  while (readyAfter.length < options.hosts && clock.now() - begin < LIMIT_MS)
    await clock.advance(LOOK_MS)
  const counts = [...server.requests.values()]
  const { sentBytes, timeouts } = server
  stop.abort()
  await clock.until(running)
  return {
    readyAfter: readyAfter.toSorted((a, b) => a - b),
    requests: counts.reduce((sum, each) => sum + each, 0),
    mostRequests: Math.max(...counts),
    sentBytes,
    timeouts,
    subnets: etcd.read(subnetsPrefix(PREFIX)).entries.length,
    listBytes: server.read(subnetsPrefix(PREFIX)).bytes,
  }
}

interface Starting {
  readonly registry: Registry
  readonly clock: ManualClock
  readonly held: HeldLease | undefined
  readonly holder: OwnHolder
  readonly noteReady: () => void
}

/** A host: ready when it holds a subnet and has everybody's records. */
function runEngine({ registry, clock, held, holder, noteReady }: Starting): Loop {
  const memory = held && {
    ...{ held, permitUntil: 0, revision: 0n },
    ...{ records: [], orphans: [], doubts: [] },
  }
  const lease = new HostLease({
    registry,
    prefix: PREFIX,
    config: parseNetworkConfig(CONFIG),
    holder,
    localAddresses: [],
    previous: held?.subnet,
    mayBeClone: false,
    former: holder,
    isUnsettled: false,
    memory,
    isRegistryAway: false,
    ttlSeconds: TTL_SECONDS,
    clock,
    log: silent,
    onWait: () => undefined,
  })
  let isReady = false
  const host: Host = {
    serve: async ({ view }, signal) => {
      const look = (): void => {
        if (isReady || !view.listed) return
        isReady = true
        noteReady()
      }
      view.subscribe(look)
      look()
      await clock.sleep(LIMIT_MS * 2, signal)
    },
    permit: () => Promise.resolve(),
    abandon: () => Promise.resolve(),
  }
  return signal => lease.run(host, signal)
}

/** What the engine asks etcd for, of a host that is there again, without the memory that thousands of engines take. */
function askAsEngine({ registry, clock, held, holder, noteReady }: Starting): Loop {
  let open = 2
  const done = (): void => {
    open -= 1
    if (open === 0) noteReady()
  }
  const follow = (prefix: string, onSnapshot: () => void): Loop => {
    const parts = { registry, prefix, clock, log: silent, onChanges: () => undefined }
    return signal => followPrefix({ ...parts, onSnapshot }, signal)
  }
  let isListed = false
  return signal =>
    runAll(signal, [
      follow(subnetsPrefix(PREFIX), () => {
        if (!isListed) done()
        isListed = true
      }),
      follow(orderKey(PREFIX, holder.hostId), () => undefined),
      async each => {
        const backoff = new Backoff(clock, 1000, 30_000)
        while (!each.aborted) {
          try {
            await registry.list(subnetsPrefix(PREFIX))
            await registry.keepLeaseAlive(held?.leaseId ?? '')
            const key = `${PREFIX}/last-holders/${holder.hostId}`
            await registry.get(key)
            await registry.commit([], [{ kind: 'put', key, value: '{}' }])
            done()
            return
          } catch (error) {
            if (!(error instanceof SubnetError)) throw error
            await backoff.wait(each)
          }
        }
      },
    ])
}

function holderOf(index: number): OwnHolder {
  const mac = `0e:00:00:00:${hex(index >> 8)}:${hex(index & 255)}`
  return {
    publicIp: parseAddress(`172.16.${index >> 8}.${index & 255}`),
    backendType: 'vxlan',
    backendData: { VNI: 1, VtepMAC: mac },
    hostId: index.toString(16).padStart(16, '0'),
  }
}

/** What the host has left in etcd. */
function recordOf(etcd: MemoryEtcd, holder: OwnHolder, index: number): HeldLease {
  const subnet = readSubnetKey(`10.${(index >> 8) + 1}.${index & 255}.0-24`)
  if (subnet === undefined) throw new Error('no subnet')
  const key = formatSubnetKey(PREFIX, subnet)
  const leaseId = etcd.grant(TTL_SECONDS)
  const value = formatHolder(holder)
  const { revision } = etcd.commit([], [{ kind: 'put', key, value, leaseId }])
  const revisions = { createRevision: revision, modRevision: revision }
  return { key, subnet, ...revisions, leaseId, provenAt: etcd.clock.now() }
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0')
}
