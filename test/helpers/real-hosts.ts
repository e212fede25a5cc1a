import { execFileSync } from 'node:child_process'
import { ETCDCTL_ENVIRONMENT } from '../../cmd/flannelctl/lab/etcd.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { HostLease, type Tenure } from '../../lib/subnet/host-lease.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { parseAddress } from '../../lib/subnet/prefix.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'
import type { RealEtcd } from './real-etcd.js'
import { silent } from './log.js'

export const PREFIX = '/net'

/** A daemon's engine of leases on a real etcd, without a machine around it. */
export class RealHost {
  readonly hostId: string
  /** Every subnet that it has held, in order. */
  readonly subnets: string[] = []
  /** Why it waits for a subnet; undefined while it holds one. */
  waitsFor: string | undefined
  /** Why it ended, if it did by itself. */
  failure: unknown
  readonly lease: HostLease
  readonly #registry: EtcdRegistry
  readonly #stop = new AbortController()
  readonly #running: Promise<void>

  constructor(
    parts: {
      readonly hostId: string
      readonly publicIp: string
      readonly config: string
    },
    endpoints: readonly string[],
  ) {
    this.hostId = parts.hostId
    const publicIp = parseAddress(parts.publicIp)
    this.#registry = new EtcdRegistry({ endpoints })
    this.lease = new HostLease({
      registry: this.#registry,
      prefix: PREFIX,
      config: parseNetworkConfig(parts.config),
      holder: { publicIp, backendType: '', hostId: parts.hostId },
      localAddresses: [publicIp],
      mayBeClone: false,
      isUnsettled: false,
      isRegistryAway: false,
      ttlSeconds: 60,
      clock: systemClock(() => performance.now()),
      log: silent,
      onWait: reason => {
        this.waitsFor = reason
      },
    })
    const host = {
      serve: (tenure: Tenure, signal: AbortSignal) => this.#serve(tenure, signal),
      permit: () => Promise.resolve(),
      abandon: () => Promise.resolve(),
    }
    this.#running = this.lease.run(host, this.#stop.signal).catch((error: unknown) => {
      this.failure = error
    })
  }

  /** The subnet that is held; undefined while none is. */
  get subnet(): string | undefined {
    return this.waitsFor === undefined ? this.subnets.at(-1) : undefined
  }

  /** What it would make routes for: subnets of others, sorted. */
  get remotes(): string[] {
    return this.lease.view.table
      .records()
      .filter(({ holder }) => holder.hostId !== this.hostId)
      .map(({ subnet }) => formatSubnet(subnet))
      .sort()
  }

  async #serve({ keeper }: Tenure, signal: AbortSignal): Promise<void> {
    this.subnets.push(formatSubnet(keeper.held.subnet))
    await new Promise(resolve => {
      signal.addEventListener('abort', resolve)
    })
  }

  async close(): Promise<void> {
    this.#stop.abort()
    await this.#running
    this.#registry.close()
  }
}

/** Runs etcdctl(1) on a server without logins. */
export function ctl(etcd: RealEtcd, ...args: readonly string[]): string {
  return execFileSync('etcdctl', [`--endpoints=${etcd.endpoint}`, ...args], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], ...ETCDCTL_ENVIRONMENT },
    stdio: 'pipe',
  })
}
