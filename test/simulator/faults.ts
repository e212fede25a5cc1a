import { formatOrder } from '../../lib/subnet/orders.js'
import { deleteSubnet } from '../../lib/subnet/subnet-writes.js'
import { formatHolder } from '../../lib/subnet/subnet-record.js'
import { parseAddress, parsePrefix } from '../../lib/subnet/prefix.js'
import { formatSubnetKey, subnetFromPrefixes } from '../../lib/subnet/subnet-key.js'
import type { Backup } from '../fakes/memory-etcd.js'
import type { Call, Failure } from '../fakes/memory-registry.js'
import type { Chance } from './random.js'
import type { SimulatedHost } from './simulated-host.js'
import type { SimulatedNetwork } from './simulated-network.js'

/** What a fault has to work with. */
export interface Stage {
  readonly network: SimulatedNetwork
  readonly chance: Chance
  /** Runs something later, in virtual ms. */
  later(ms: number, act: () => void): void
  /** Backups that an operator has made. */
  readonly backups: Backup[]
}

export interface Fault {
  readonly name: string
  /** How often it comes, compared with the others. */
  readonly weight: number
  strike(stage: Stage): void
}

const SECOND = 1000

/** From moments to twice the lease. */
function someTime({ chance, network }: Stage): number {
  const ttl = network.ttlSeconds
  const [most] = chance.once(2) ? [10] : chance.once(2) ? [ttl] : [ttl * 2.5]
  return chance.between(1, most) * SECOND
}

function pickHost(
  { network, chance }: Stage,
  isFit: (host: SimulatedHost) => boolean,
): SimulatedHost | undefined {
  return chance.pick(network.hosts.filter(isFit))
}

const isUp = (host: SimulatedHost): boolean => host.isRunning && !host.isSuspended

const CALLS: readonly Call[] = [
  'commit',
  'grantLease',
  'keepLeaseAlive',
  'list',
  'get',
  'watch',
  'revokeLease',
]
const FAILURES: readonly Failure[] = ['not sent', 'answer lost', 'refused']

/** What `flannelctl lease reserve` does. */
function reserveFor({ network, chance }: Stage, host: SimulatedHost): void {
  const [family] = network.config.families
  if (family === undefined) return
  const last = Number((family.subnetMax - family.network.network) >> 4n)
  const subnet = subnetFromPrefixes([
    parsePrefix(`10.5.0.${16 * chance.between(1, last)}/28`),
  ])
  const key = formatSubnetKey(network.prefix, subnet)
  const holder = {
    publicIp: parseAddress(host.publicIp),
    backendType: '',
    hostId: host.disk.hostId,
  }
  const write = { kind: 'put', key, value: formatHolder(holder) } as const
  const { succeeded } = network.etcd.commit([{ key, modRevision: 0n }], [write])
  if (!succeeded) return
  network.tell(`${network.nameOf(subnet)} reserved for ${host.name}`)
  network.reservations.set(key, host.disk.hostId)
}

/** What operators, networks and machines do to hosts and to etcd. */
export const FAULTS: readonly Fault[] = [
  {
    name: 'daemon killed',
    weight: 10,
    strike: stage => {
      const host = pickHost(stage, isUp)
      if (host === undefined) return
      const ms = someTime(stage)
      stage.network.tell(`${host.name}: daemon killed for ${ms / SECOND} s`)
      host.kill()
      stage.later(ms, () => {
        host.start()
      })
    },
  },
  {
    name: 'daemon restarted',
    weight: 6,
    strike: stage => {
      const host = pickHost(stage, isUp)
      if (host === undefined) return
      stage.network.tell(`${host.name}: daemon restarted`)
      void host.stop().then(() => {
        host.start()
      })
    },
  },
  {
    name: 'machine off',
    weight: 6,
    strike: stage => {
      const host = pickHost(stage, isUp)
      if (host === undefined) return
      const ms = someTime(stage)
      // A machine without memory trusts its host id: then no copy of it may live.
      const names = [host.hardware, host.disk.hostId]
      const isOnly = stage.network.hosts.every(
        other => other === host || !names.includes(other.disk.hostId),
      )
      const isNew = stage.chance.once(3) && isOnly
      stage.network.tell(
        `${host.name}: machine off for ${ms / SECOND} s${isNew ? ', its disk lost' : ''}`,
      )
      host.powerOff()
      // The host id is made anew from the same hardware.
      if (isNew) {
        host.disk = { hostId: host.hardware, madeOn: host.hardware }
      }
      const boot = (): void => {
        if (isNew && !stage.network.isSettled) stage.later(SECOND, boot)
        else host.start()
      }
      stage.later(ms, boot)
    },
  },
  {
    name: 'partition',
    weight: 12,
    strike: stage => {
      const host = pickHost(stage, ({ isPartitioned }) => !isPartitioned)
      if (host === undefined) return
      const ms = someTime(stage)
      stage.network.tell(`${host.name}: cut off from etcd for ${ms / SECOND} s`)
      host.partition()
      stage.later(ms, () => {
        stage.network.tell(`${host.name}: reaches etcd again`)
        host.heal()
      })
    },
  },
  {
    name: 'slow way',
    weight: 4,
    strike: stage => {
      const host = pickHost(stage, () => true)
      if (host === undefined) return
      host.latencyMs = stage.chance.between(2, 2500)
      stage.network.tell(`${host.name}: ${host.latencyMs} ms to etcd`)
      stage.later(someTime(stage), () => {
        host.latencyMs = 1
      })
    },
  },
  {
    name: 'failing calls',
    weight: 12,
    strike: stage => {
      const host = pickHost(stage, isUp)
      const call = stage.chance.pick(CALLS)
      const failure = stage.chance.pick(FAILURES)
      if (host === undefined || call === undefined || failure === undefined) return
      stage.network.tell(`${host.name}: next ${call} ${failure}`)
      host.registry?.failNext(call, failure)
    },
  },
  {
    name: 'suspended',
    weight: 8,
    strike: stage => {
      const host = pickHost(stage, ({ isSuspended }) => !isSuspended)
      if (host === undefined) return
      const ms = someTime(stage)
      stage.network.tell(`${host.name}: suspended for ${ms / SECOND} s`)
      host.suspend()
      stage.later(ms, () => {
        stage.network.tell(`${host.name}: resumed`)
        host.resume()
      })
    },
  },
  {
    name: 'clock jump',
    weight: 3,
    strike: stage => {
      const host = pickHost(stage, () => true)
      if (host === undefined) return
      const ms = stage.chance.between(-3600, 3600) * SECOND
      stage.network.tell(`${host.name}: time of day jumps by ${ms / SECOND} s`)
      host.clock.jump(ms)
    },
  },
  {
    name: 'new address',
    weight: 4,
    strike: stage => {
      const host = pickHost(stage, isUp)
      if (host === undefined) return
      const { network, chance } = stage
      const publicIp = `172.16.${network.hosts.indexOf(host)}.${chance.between(1, 250)}`
      network.tell(`${host.name}: address ${publicIp}`)
      for (const { subnet, holder } of network.records()) {
        if (holder.hostId === host.disk.hostId) network.touch(subnet)
      }
      host.readdress(publicIp)
    },
  },
  {
    name: 'etcd away',
    weight: 5,
    strike: stage => {
      const { etcd } = stage.network
      if (!etcd.up) return
      const ms = someTime(stage)
      stage.network.tell(`etcd stopped for ${ms / SECOND} s`)
      etcd.stop()
      stage.later(ms, () => {
        stage.network.tell('etcd is back')
        etcd.start()
      })
    },
  },
  {
    name: 'connections cut',
    weight: 6,
    strike: ({ network }) => {
      network.tell('every connection to etcd cut')
      network.etcd.cut()
    },
  },
  {
    name: 'compaction',
    weight: 6,
    strike: ({ network, chance }) => {
      network.tell('history compacted')
      network.etcd.compact(network.etcd.revision)
      if (chance.once(2)) network.etcd.cut()
    },
  },
  {
    name: 'backup',
    weight: 4,
    strike: ({ network, backups }) => {
      if (!network.hasConfig) return
      backups.push(network.etcd.backup())
    },
  },
  {
    name: 'restore',
    weight: 3,
    strike: ({ network, chance, backups }) => {
      const backup = chance.pick(backups)
      if (backup === undefined || !network.etcd.up) return
      network.tell('etcd restored from a backup')
      network.etcd.restore(backup)
      network.noteForgetting()
    },
  },
  {
    name: 'wipe',
    weight: 2,
    strike: stage => {
      const { network } = stage
      if (!network.etcd.up) return
      const ms = stage.chance.between(0, 60) * SECOND
      network.tell(`etcd wiped; the configuration comes back after ${ms / SECOND} s`)
      network.etcd.wipe()
      network.noteForgetting()
      // Who builds etcd anew goes on with that. Revisions of then mean nothing now.
      stage.backups.length = 0
      stage.later(ms, () => {
        network.putConfig()
      })
    },
  },
  {
    name: 'record deleted',
    weight: 6,
    strike: ({ network, chance }) => {
      const record = chance.pick(network.records().filter(({ kind }) => kind === 'lease'))
      if (record === undefined || !network.etcd.up) return
      network.tell(`record of ${network.nameOf(record.subnet)} deleted by hand`)
      network.touch(record.subnet)
      for (const host of network.hosts) {
        if (host.disk.hostId === record.holder.hostId) host.forgottenAt = network.now
      }
      network.etcd.commit([], deleteSubnet(network.prefix, record.subnet))
    },
  },
  {
    name: 'garbage',
    weight: 4,
    strike: ({ network, chance }) => {
      const name = chance.pick(['garbage', '10.5.0.1-24', '10.99.0.0-24', '10.5.0.0-33'])
      const value = chance.pick(['x', '{}', 'null', '{"PublicIP":"0.0.0.0"}', '[1]'])
      if (value === undefined || name === undefined) return
      const key = `${network.prefix}/subnets/${name}`
      network.etcd.commit([], [{ kind: 'put', key, value }])
    },
  },
  {
    name: 'record spoiled',
    weight: 3,
    strike: ({ network, chance }) => {
      const record = chance.pick(network.records().filter(({ kind }) => kind === 'lease'))
      if (record?.kind !== 'lease' || !network.etcd.up) return
      network.tell(`record of ${network.nameOf(record.subnet)} spoiled by hand`)
      network.touch(record.subnet)
      const { key, leaseId } = record
      network.etcd.commit([], [{ kind: 'put', key, value: '{"PublicIP":7}', leaseId }])
    },
  },
  {
    name: 'clone',
    weight: 2,
    strike: stage => {
      const { network } = stage
      const original = pickHost(stage, ({ disk }) => disk.cache !== undefined)
      if (original === undefined || network.hosts.length > 14) return
      if (!network.isSettled) return
      const clone = network.addHost(original.disk)
      clone.mayChange = 'it is a copy'
      network.tell(`${clone.name} is a copy of ${original.name}`)
      clone.start()
    },
  },
  {
    name: 'newcomer',
    weight: 3,
    strike: stage => {
      const { network, chance } = stage
      if (network.hosts.length > 14 || !network.isSettled) return
      const host = network.addHost()
      network.tell(`${host.name} joins`)
      if (chance.once(2)) reserveFor(stage, host)
      host.start()
    },
  },
  {
    name: 'move',
    weight: 3,
    strike: stage => {
      const { network, chance } = stage
      const host = pickHost(stage, ({ held }) => held !== undefined)
      if (host === undefined || !network.etcd.up) return
      const to = chance.once(2)
        ? {
            to: subnetFromPrefixes([
              parsePrefix(`10.5.0.${16 * chance.between(1, 15)}/28`),
            ]),
          }
        : {}
      network.tell(
        `${host.name} is ordered to move ${to.to ? network.nameOf(to.to) : ''}`,
      )
      if (host.held !== undefined) network.touch(host.held.subnet)
      const key = `${network.prefix}/orders/${host.disk.hostId}`
      const value = formatOrder({ kind: 'move', state: 'open', ...to })
      network.etcd.commit([], [{ kind: 'put', key, value }])
    },
  },
  {
    name: 'revoke',
    weight: 2,
    strike: stage => {
      const { network } = stage
      const host = pickHost(stage, ({ held }) => held !== undefined)
      if (host === undefined || !network.etcd.up) return
      network.tell(`${host.name} is ordered to hold nothing`)
      if (host.held !== undefined) network.touch(host.held.subnet)
      const key = `${network.prefix}/orders/${host.disk.hostId}`
      const value = formatOrder({ kind: 'revoke', state: 'open' })
      network.etcd.commit([], [{ kind: 'put', key, value }])
      stage.later(someTime(stage), () => {
        network.tell(`${host.name} may hold a subnet again`)
        network.etcd.commit([], [{ kind: 'delete', key }])
      })
    },
  },
  {
    name: 'reservation',
    weight: 3,
    strike: stage => {
      const { network } = stage
      const host = pickHost(stage, () => true)
      if (host === undefined || !network.etcd.up || !network.isSettled) return
      reserveFor(stage, host)
    },
  },
]
