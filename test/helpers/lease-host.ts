import type { Logger } from 'pino'
import {
  type AcquireLease,
  type HeldLease,
  acquireLease,
} from '../../lib/subnet/acquire-lease.js'
import type { Clock } from '../../lib/subnet/clock.js'
import { LeaseKeeper } from '../../lib/subnet/keep-lease.js'
import {
  type NetworkConfig,
  formatNetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import { parseAddress, parsePrefix } from '../../lib/subnet/prefix.js'
import type { Write } from '../../lib/subnet/registry.js'
import {
  type Subnet,
  formatSubnet,
  subnetFromPrefixes,
} from '../../lib/subnet/subnet-key.js'
import type { OwnHolder } from '../../lib/subnet/subnet-record.js'
import { ManualClock } from '../fakes/manual-clock.js'
import { MemoryEtcd } from '../fakes/memory-etcd.js'
import { MemoryRegistry } from '../fakes/memory-registry.js'
import { silent } from './log.js'

export const PREFIX = '/net'
export const TTL_SECONDS = 86_400

export const keyOf = (name: string): string => `${PREFIX}/subnets/${name}`

export const subnetOf = (...texts: string[]): Subnet =>
  subnetFromPrefixes(texts.map(parsePrefix))

/** An etcd in memory, and the hosts of a network that use it. */
export class LeaseWorld {
  readonly clock: ManualClock
  readonly etcd: MemoryEtcd
  config: NetworkConfig

  constructor(config: object = { Network: '10.5.0.0/16' }, seed = 1) {
    this.clock = new ManualClock({ seed })
    this.etcd = new MemoryEtcd(this.clock)
    this.config = parseNetworkConfig(JSON.stringify(config))
    this.putConfig()
  }

  /** Stores a configuration, as operators do; hosts write nothing into a registry without one. */
  putConfig(): void {
    const key = `${PREFIX}/config`
    const value = formatNetworkConfig(this.config)
    this.etcd.commit([], [{ kind: 'put', key, value }])
  }

  host(hostId: string, publicIp: string, log: Logger = silent): LeaseHost {
    return new LeaseHost(this, { hostId, publicIp, log })
  }

  /** What an operator or a stock flannel puts there. */
  put(name: string, value: string, leaseId?: string): void {
    const write: Write = {
      kind: 'put',
      key: keyOf(name),
      value,
      ...(leaseId !== undefined && { leaseId }),
    }
    this.etcd.commit([], [write])
  }

  remove(name: string): void {
    this.etcd.commit([], [{ kind: 'delete', key: keyOf(name) }])
  }

  value(name: string): string | undefined {
    return this.etcd.get(keyOf(name))?.value
  }

  /** Names of the subnets that are held. */
  names(): string[] {
    const directory = keyOf('')
    return this.etcd.read(directory).entries.map(({ key }) => key.slice(directory.length))
  }
}

/** One host's way to its lease. */
export class LeaseHost {
  readonly world: LeaseWorld
  readonly registry: MemoryRegistry
  readonly holder: OwnHolder
  readonly log: Logger
  readonly #publicIp: string

  constructor(
    world: LeaseWorld,
    parts: {
      readonly hostId: string
      readonly publicIp: string
      readonly log: Logger
      readonly clock?: Clock
    },
  ) {
    const { hostId, publicIp, log, clock } = parts
    this.world = world
    this.registry = new MemoryRegistry(world.etcd, clock && { clock })
    this.holder = { publicIp: parseAddress(publicIp), backendType: '', hostId }
    this.log = log
    this.#publicIp = publicIp
  }

  /** Acquires while somebody else lets the time pass. */
  async start(changes: Partial<AcquireLease> = {}): Promise<HeldLease> {
    const { clock, config } = this.world
    return await acquireLease({
      registry: this.registry,
      prefix: PREFIX,
      config,
      holder: this.holder,
      localAddresses: [parseAddress(this.#publicIp)],
      mayBeClone: false,
      settleMs: 0,
      ttlSeconds: TTL_SECONDS,
      clock,
      log: this.log,
      ...changes,
    })
  }

  async acquire(changes: Partial<AcquireLease> = {}): Promise<HeldLease> {
    return await this.world.clock.until(this.start(changes))
  }

  /** Acquires, and says only which subnet it got. */
  async acquireSubnet(changes: Partial<AcquireLease> = {}): Promise<string> {
    return formatSubnet((await this.acquire(changes)).subnet)
  }

  keeper(held: HeldLease): LeaseKeeper {
    const { registry, holder, log } = this
    const { clock } = this.world
    return new LeaseKeeper({
      registry,
      prefix: PREFIX,
      held,
      holder,
      ttlSeconds: TTL_SECONDS,
      clock,
      log,
      isDoubted: () => false,
      onHeld: () => undefined,
    })
  }
}
