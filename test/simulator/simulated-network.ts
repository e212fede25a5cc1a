import type { Remote } from '../../lib/backend/backend.js'
import { RemoteSelector } from '../../lib/backend/remotes.js'
import type { HeldLease } from '../../lib/subnet/acquire-lease.js'
import { DOUBT_MS } from '../../lib/subnet/keep-lease.js'
import {
  type NetworkConfig,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import { formatAddress } from '../../lib/subnet/prefix.js'
import {
  type Subnet,
  formatSubnet,
  formatSubnetKey,
  subnetsOverlap,
} from '../../lib/subnet/subnet-key.js'
import {
  type Holder,
  type SubnetRecord,
  readSubnetRecord,
} from '../../lib/subnet/subnet-record.js'
import { ManualClock } from '../fakes/manual-clock.js'
import { MemoryEtcd } from '../fakes/memory-etcd.js'
import { MARGIN_MS, SimulatedHost } from './simulated-host.js'

/**
 * How long a wrong state may last for a host that reaches etcd: what a host
 * needs to find a connection dead (15 s), to retry (5 s) and to hear the answer,
 * doubled.
 */
const T_MS = 45_000

/** How long a host may look for a subnet: it backs off to 30 s, and may wait twice for the sign of life of another that has its id. */
const SEEK_MS = 130_000

/** Until everybody has put a record back into a wiped etcd that has its configuration again. */
const SETTLE_MS = 10_000

/** Nobody has a reason to take a subnet so often in a minute. */
const MOST_TENURES = 10
const MINUTE_MS = 60_000

/** Nor do all of them have so much to write between two looks, at worst 15 s. */
const MOST_WRITES = 150n

/** A permit that nothing proves reaches no further (lib/subnet/permit.ts). */
const GRACE_MS = 30_000

/**
 * Hosts that a wiped etcd has forgotten are believed in for 15 minutes
 * (lease-view.ts), from when a host hears of it.
 */
const ORPHAN_MS = 20 * 60_000

/** Something that is wrong now. It may be for `limitMs`, and then it is a violation. */
interface Wrong {
  readonly what: string
  readonly limitMs: number
}

/** Hosts around one etcd, and what must never happen among them (DESIGN.md's invariants 1, 2, 4, 5 and 6). */
export class SimulatedNetwork {
  readonly prefix = '/net'
  readonly seed: number
  readonly ttlSeconds = 120
  readonly clock: ManualClock
  readonly etcd: MemoryEtcd
  readonly config: NetworkConfig
  readonly configText: string
  readonly hosts: SimulatedHost[] = []
  /** What was found wrong, each with its time. */
  readonly violations: string[] = []
  /** What happened, for whoever looks into a violation. */
  readonly story: string[] = []
  /** When etcd forgot something last: it was wiped or restored. */
  forgotAt = Number.NEGATIVE_INFINITY
  #forgettings = 0
  /** Keys of reservations that must stay as they are, with the host that they are for. */
  readonly reservations = new Map<string, string>()
  #parsed: {
    readonly version: string
    readonly records: readonly SubnetRecord[]
    /** Keys whose value is spoiled: what was read there last stays in force. */
    readonly unreadable: ReadonlySet<string>
  } = { version: '', records: [], unreadable: new Set() }
  readonly #wanted = new Map<
    SimulatedHost,
    {
      readonly records: readonly SubnetRecord[]
      readonly key: string
      readonly remotes: readonly Remote[]
    }
  >()
  readonly #wrongSince = new Map<string, number>()
  /** When an operator or a fault touched the record of a subnet last, by its name. */
  readonly #touchedAt = new Map<string, number>()
  /** Other holders of a subnet that somebody saw in etcd, by subnet and time. */
  readonly #tenures = new Map<SimulatedHost, number[]>()
  #configSince = Number.NEGATIVE_INFINITY
  #lastRevision = 0n
  #lookedAt: readonly SubnetRecord[] = []
  readonly #seen: { readonly subnet: Subnet; readonly hostId: string; at: number }[] = []

  constructor(seed: number, config: object) {
    this.seed = seed
    this.clock = new ManualClock({ seed })
    this.etcd = new MemoryEtcd(this.clock)
    this.configText = JSON.stringify(config)
    this.config = parseNetworkConfig(this.configText)
    this.putConfig()
  }

  get now(): number {
    return this.clock.now()
  }

  /**
   * Whether a host that knows nothing may come now. Into a registry that was
   * wiped and has its configuration back since seconds it must not: it would find
   * subnets free whose holders are about to put them back, and cannot know.
   */
  get isSettled(): boolean {
    return this.hasConfig && this.now - this.#configSince > SETTLE_MS
  }

  putConfig(): void {
    this.#configSince = this.now
    const key = `${this.prefix}/config`
    this.etcd.commit([], [{ kind: 'put', key, value: this.configText }])
  }

  tell(text: string): void {
    this.story.push(`${(this.now - 1_000_000) / 1000}s ${text}`)
  }

  report(text: string): void {
    this.violations.push(`${(this.now - 1_000_000) / 1000}s ${text}`)
    this.tell(`VIOLATION ${text}`)
  }

  addHost(disk?: SimulatedHost['disk']): SimulatedHost {
    const number = this.hosts.length + 1
    const publicIp = `192.168.${number >> 8}.${number & 255}`
    const host = new SimulatedHost(this, {
      name: `h${number}`,
      publicIp,
      ...(disk && { disk: { ...disk } }),
    })
    this.hosts.push(host)
    return host
  }

  nameOf(subnet: Subnet): string {
    let name = NAMES.get(subnet)
    if (name === undefined) {
      name = formatSubnet(subnet)
      NAMES.set(subnet, name)
    }
    return name
  }

  /** What etcd holds, whoever can see it. */
  records(): readonly SubnetRecord[] {
    const version = `${this.forgotAt} ${this.etcd.revision}`
    if (this.#parsed.version !== version) {
      const { entries } = this.etcd.read(`${this.prefix}/subnets/`)
      const records = entries.flatMap(entry => readSubnetRecord(entry) ?? [])
      const readable = new Set(records.map(({ key }) => key))
      const keys = entries.map(({ key }) => key).filter(key => !readable.has(key))
      this.#parsed = { version, records, unreadable: new Set(keys) }
    }
    return this.#parsed.records
  }

  /** etcd was wiped or restored: what it said before counts no more. */
  noteForgetting(): void {
    this.forgotAt = this.now
    this.#forgettings += 1
    this.reservations.clear()
  }

  get hasConfig(): boolean {
    return this.etcd.get(`${this.prefix}/config`) !== undefined
  }

  get hasForgotten(): boolean {
    return this.forgotAt > 0 || this.hosts.some(({ forgottenAt }) => forgottenAt > 0)
  }

  /** After a time of peace nothing may happen any more. */
  checkRest(): void {
    if (this.violations.length > 0) return
    for (const [, { what }] of this.#everythingWrong()) this.report(`at rest: ${what}`)
  }

  /** The record was touched by hand: routes may rightly change for a while. */
  touch(subnet: Subnet): void {
    this.#touchedAt.set(this.nameOf(subnet), this.now)
  }

  /** A host begins to serve a subnet. */
  noteTenure(host: SimulatedHost, subnet: Subnet): void {
    const before = host.path?.subnet ?? host.disk.told
    this.tell(`${host.name} (${host.disk.hostId}) holds ${this.nameOf(subnet)}`)
    const tenures = (this.#tenures.get(host) ?? []).filter(
      at => this.now - at < MINUTE_MS,
    )
    this.#tenures.set(host, [...tenures, this.now])
    if (tenures.length > MOST_TENURES)
      this.report(`${host.name} takes a subnet again and again`)
    const why = host.mayChange
    host.mayChange = undefined
    if (before === undefined || this.nameOf(before) === this.nameOf(subnet)) return
    if (why !== undefined || this.#wasTaken(before, host)) return
    this.report(
      `${host.name} changed from ${this.nameOf(before)}, which nobody else took, to ${this.nameOf(subnet)}`,
    )
  }

  #wasTaken(subnet: Subnet, host: SimulatedHost): boolean {
    this.#look()
    if (this.#parsed.unreadable.has(formatSubnetKey(this.prefix, subnet))) return true
    const holders = this.#seen.filter(seen => subnetsOverlap(seen.subnet, subnet))
    const own = holders.find(({ hostId }) => hostId === host.disk.hostId)
    return holders.some(seen => seen !== own && seen.at >= (own?.at ?? 0))
  }

  /** A host puts other remotes in force. */
  noteRemotes(
    host: SimulatedHost,
    before: readonly Remote[],
    after: readonly Remote[],
  ): void {
    const kept = new Set(after.map(describeRemote))
    for (const remote of before) {
      const gone = describeRemote(remote)
      if (kept.has(gone)) continue
      const owner = this.hosts.find(other => this.#isServing(other, remote))
      if (owner === undefined || owner === host || this.#mayLoseToDouble(owner)) continue
      if (!this.#isConnected(owner, T_MS) || owner.path === undefined) continue
      if (this.#isOvertaken(remote) || this.#maySeeOtherBranch(host)) continue
      // What was on its way when a host was suspended arrives when it resumes.
      const touchedAt = this.#touchedAt.get(this.nameOf(remote.subnet))
      if (touchedAt !== undefined && host.connectedAt - touchedAt < T_MS) continue
      // It held nothing a moment ago, and that is what this host goes by.
      if (this.#recently(this.#tenures.get(owner)?.at(-1))) continue
      this.report(`${host.name} removed its working route to ${owner.name}, ${gone}`)
    }
  }

  /** A restored etcd has given the subnet to another host: its word counts in the end. */
  #isOvertaken({ subnet, holder }: Remote): boolean {
    const record = this.records().find(other => subnetsOverlap(other.subnet, subnet))
    if (record === undefined || record.holder.hostId === holder.hostId) return false
    const isGhost = this.#isGhost(record.subnet, record.holder.hostId ?? '')
    return this.now - this.forgotAt < 5 * MINUTE_MS && !isGhost
  }

  /**
   * Restored twice, etcd may have gone from one branch of its history to another
   * that is further: what happened on that looks like news.
   */
  #maySeeOtherBranch(host: SimulatedHost): boolean {
    const backAt = host.connectedSince ?? this.now
    const hasJustSeen = this.now - Math.max(this.forgotAt, backAt) < T_MS
    return this.#forgettings > 1 && hasJustSeen
  }

  /**
   * Two machines go by one id, and nothing tells which of them was there last:
   * etcd has forgotten it, or the other has, which was ordered to give its subnet
   * up. Then the other may take the record for an old one of its own.
   */
  #mayLoseToDouble(host: SimulatedHost): boolean {
    return this.hosts.some(other => {
      if (other === host || other.disk.hostId !== host.disk.hostId) return false
      const forgottenAt = Math.max(this.forgotAt, other.heardOfForgettingAt)
      return this.now - forgottenAt < 5 * MINUTE_MS || other.disk.cache === undefined
    })
  }

  #isServing(host: SimulatedHost, { subnet, holder }: Remote): boolean {
    return (
      host.held !== undefined &&
      this.nameOf(host.held.subnet) === this.nameOf(subnet) &&
      host.disk.hostId === holder.hostId &&
      host.publicIp === addressOf(holder)
    )
  }

  #recently(at: number | undefined): boolean {
    return at !== undefined && this.now - at < T_MS
  }

  #isConnected(host: SimulatedHost, forMs: number): boolean {
    return host.connectedSince !== undefined && this.now - host.connectedSince >= forMs
  }

  /** Looks at everything; what has been wrong for too long is a violation. */
  check(): void {
    this.#look()
    const writes = this.etcd.revision - this.#lastRevision
    if (writes > MOST_WRITES) this.report(`etcd was written to ${writes} times`)
    this.#lastRevision = this.etcd.revision
    for (const host of this.hosts) {
      if (host.provenNow > this.now) host.mustProve = false
      const canReach =
        host.isRunning &&
        !host.isPartitioned &&
        !host.isSuspended &&
        this.etcd.up &&
        host.latencyMs < 1000
      if (canReach) host.connectedAt = this.now
      if (!canReach) host.connectedSince = undefined
      else if (host.connectedSince === undefined) {
        host.connectedSince = this.now
        if (this.now - this.forgotAt < ORPHAN_MS) host.heardOfForgettingAt = this.now
      } else if (host.heardOfForgettingAt < this.forgotAt) {
        host.heardOfForgettingAt = this.now
      }
    }
    const wrong = new Map(this.#everythingWrong())
    for (const id of this.#wrongSince.keys())
      if (!wrong.has(id)) this.#wrongSince.delete(id)
    for (const [id, { what, limitMs }] of wrong) {
      const since = this.#wrongSince.get(id) ?? this.now
      this.#wrongSince.set(id, since)
      if (this.now - since < limitMs) continue
      this.report(`${what}, for ${(this.now - since) / 1000} s`)
      // Said once a run of the same.
      this.#wrongSince.set(id, Number.POSITIVE_INFINITY)
    }
  }

  #look(): void {
    if (this.#lookedAt === this.records()) return
    this.#lookedAt = this.records()
    for (const { kind, subnet, holder } of this.records()) {
      const hostId = holder.hostId ?? ''
      if (kind === 'lease' && this.#isGhost(subnet, hostId)) continue
      const seen = this.#seen.find(
        known =>
          known.hostId === hostId && this.nameOf(known.subnet) === this.nameOf(subnet),
      )
      if (seen === undefined) this.#seen.push({ subnet, hostId, at: this.now })
      else seen.at = this.now
    }
  }

  /** A restored etcd says that a host has a subnet, and it lives on another one and can say so. */
  #isGhost(subnet: Subnet, hostId: string): boolean {
    const hosts = this.hosts.filter(({ disk }) => disk.hostId === hostId)
    return (
      hosts.length > 0 &&
      hosts.every(
        host =>
          host.held !== undefined &&
          this.nameOf(host.held.subnet) !== this.nameOf(subnet) &&
          this.#isConnected(host, DOUBT_MS),
      )
    )
  }

  *#everythingWrong(): Generator<[string, Wrong]> {
    const records = this.records()
    const { hasConfig } = this
    for (const host of this.hosts) {
      yield* this.#wrongForwarding(host, records)
      if (!this.#isConnected(host, 0) || !hasConfig) continue
      yield* this.#wrongRecord(host, records)
      yield* this.#wrongRoutes(host, records)
    }
    yield* this.#wrongReservations(records)
  }

  /** Invariant 1: nobody forwards from a subnet that another host holds. */
  *#wrongForwarding(
    host: SimulatedHost,
    records: readonly SubnetRecord[],
  ): Generator<[string, Wrong]> {
    const { path } = host
    if (path === undefined || !host.forwards) return
    const isAttended = host.isRunning && host.held !== undefined
    // A copy of a host goes by its id; while nobody is there, so may the host's old address.
    const isOther = (holder: Holder): boolean =>
      holder.hostId !== host.disk.hostId ||
      (isAttended && addressOf(holder) !== host.publicIp)
    const other = records.find(
      ({ subnet, holder }) => subnetsOverlap(subnet, path.subnet) && isOther(holder),
    )
    if (other === undefined) return
    const what = `${host.name} forwards from ${this.nameOf(path.subnet)}, which ${other.holder.hostId ?? 'somebody'} holds`
    if (host.mustProve) {
      yield [`woken ${host.name}`, { what: `${what}, unproven`, limitMs: 0 }]
    } else if (isAttended && host.connectedSince !== undefined) {
      yield [`forward ${host.name}`, { what, limitMs: T_MS }]
    } else if (!isAttended) {
      // etcd forgot us, so that it gave the subnet away before its time.
      const forgotAt = Math.max(this.forgotAt, host.forgottenAt)
      const { provenAt, unattendedSince } = host
      const wasForgotten = forgotAt > Math.min(provenAt, unattendedSince - MINUTE_MS)
      const wasProven = host.provenUntil > host.unattendedSince + MARGIN_MS
      if (wasForgotten) return
      const limitMs = wasProven ? 0 : GRACE_MS
      yield [`unattended ${host.name}`, { what: `${what}, unattended`, limitMs }]
    }
  }

  /** Invariants 4 and 5: whoever can have a subnet has one, and etcd knows it. */
  *#wrongRecord(
    host: SimulatedHost,
    records: readonly SubnetRecord[],
  ): Generator<[string, Wrong]> {
    const { held } = host
    if (held === undefined) {
      // Subnets of forgotten hosts are not given to others while these are believed in.
      if (this.now - this.forgotAt < ORPHAN_MS) return
      if (this.#isBarred(host) || this.#occupied >= this.#capacity) return
      const what = `${host.name} holds no subnet although some are free`
      yield [`no subnet ${host.name}`, { what, limitMs: SEEK_MS }]
      return
    }
    const own = records.find(({ key }) => key === held.key)
    if (
      own?.holder.hostId === host.disk.hostId &&
      addressOf(own.holder) === host.publicIp
    )
      return
    const what = `${host.name} serves ${this.nameOf(held.subnet)}, and etcd does not say so`
    yield [`record ${host.name}`, { what, limitMs: T_MS }]
  }

  /** How many subnets have a key, readable or not. */
  get #occupied(): number {
    return this.#parsed.records.length + this.#parsed.unreadable.size
  }

  get #capacity(): number {
    const [family] = this.config.families
    if (family === undefined) return 0
    const size = 1n << BigInt(32 - family.subnetLength)
    return Number((family.subnetMax - family.subnetMin) / size) + 1
  }

  #isBarred(host: SimulatedHost): boolean {
    const order = this.etcd.get(`${this.prefix}/orders/${host.disk.hostId}`)
    return order?.value.includes('"revoke"') === true
  }

  /** Invariant 2: every route leads to the holder of the moment, and none is missing. */
  *#wrongRoutes(
    host: SimulatedHost,
    records: readonly SubnetRecord[],
  ): Generator<[string, Wrong]> {
    const { held, path } = host
    if (held === undefined || path === undefined) return
    const wanted = this.#wantedBy(host, held, records)
    const right = new Set(wanted.map(describeRemote))
    const has = new Set(path.remotes.map(describeRemote))
    for (const text of right) {
      if (has.has(text)) continue
      const what = `${host.name} has no route to ${text}`
      yield [`missing ${host.name} ${text}`, { what, limitMs: T_MS }]
    }
    if (right.size === has.size) return
    for (const remote of path.remotes) {
      const text = describeRemote(remote)
      if (right.has(text)) continue
      const isReplaced = wanted.some(({ subnet }) =>
        subnetsOverlap(subnet, remote.subnet),
      )
      const isForgotten =
        this.now - Math.max(host.heardOfForgettingAt, host.forgottenAt) < ORPHAN_MS
      const isSpoiled = this.#parsed.unreadable.has(
        formatSubnetKey(this.prefix, remote.subnet),
      )
      if (!isReplaced && (isForgotten || isSpoiled)) continue
      const what = `${host.name} has a route to ${text}, which holds nothing there`
      yield [`stale ${host.name} ${text}`, { what, limitMs: T_MS }]
    }
  }

  #wantedBy(
    host: SimulatedHost,
    held: HeldLease,
    records: readonly SubnetRecord[],
  ): readonly Remote[] {
    let wanted = this.#wanted.get(host)
    if (wanted?.records !== records || wanted.key !== held.key) {
      const { remotes } = new RemoteSelector(held, this.config, '').select(records)
      wanted = { records, key: held.key, remotes }
      this.#wanted.set(host, wanted)
    }
    return wanted.remotes
  }

  /** A reservation is an operator's: no daemon ends it or gives it an end. */
  *#wrongReservations(records: readonly SubnetRecord[]): Generator<[string, Wrong]> {
    for (const [key, hostId] of this.reservations) {
      const record = records.find(candidate => candidate.key === key)
      if (record?.kind === 'reservation' && record.holder.hostId === hostId) continue
      const what = `the reservation ${key} for ${hostId} is ${record === undefined ? 'gone' : `a ${record.kind} of ${record.holder.hostId ?? 'nobody'}`}`
      yield [`reservation ${key}`, { what, limitMs: 0 }]
    }
  }
}

// Text is what most of a simulation's time would go into.
const NAMES = new WeakMap<Subnet, string>()
const DESCRIBED = new WeakMap<Remote, string>()

function describeRemote(remote: Remote): string {
  let text = DESCRIBED.get(remote)
  if (text === undefined) {
    text = `${formatSubnet(remote.subnet)} at ${addressOf(remote.holder)}`
    DESCRIBED.set(remote, text)
  }
  return text
}

function addressOf({ publicIp }: Holder): string {
  return publicIp === undefined ? '' : formatAddress(publicIp)
}
