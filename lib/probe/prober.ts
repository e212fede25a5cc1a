import { randomBytes, randomInt } from 'node:crypto'
import type { Logger } from 'pino'
import type { IcmpSocket } from '../linux/icmp-socket.js'
import type { Clock } from '../subnet/clock.js'
import { type Address, FAMILIES, type Family, formatAddress } from '../subnet/prefix.js'
import { type IcmpFailure, LEAST_SIZE, echoRequest, readIcmp } from './icmp.js'
import { type PathReport, type PathState, RemotePath } from './remote-path.js'

/** Less often when there are too many remotes for the rate. */
const TURN_MS = 1000

const TIMEOUT_MS = 2000

/** The path MTU, once it is known, is asked for again after so long. */
const MTU_PERIOD_MS = 20_000

/** IPv4 hosts take packets of 576 (RFC 1122), IPv6 links of 1280 (RFC 8200). */
const LEAST_MTU = { 4: 576, 6: 1280 } as const

/** Longest that a prober sleeps that has nothing to do. */
const IDLE_MS = 1000

const SEQUENCES = 1 << 16

/** A remote, and where it answers. */
export interface ProbeTarget {
  /** Names it: its subnet. */
  readonly id: string
  readonly underlay: Address
  /** Undefined when no address of the overlay is sure to answer. */
  readonly overlay: Address | undefined
  /** What carries packets to it: `UDP 8285`. */
  readonly carrier: string
  /** `Backend.MTU` makes our packets shorter. */
  readonly hasMtuOption: boolean
}

export interface ProberOptions {
  /** Packets a second, whatever the number of remotes. */
  readonly rate: number
  /** Milliseconds from one packet to a remote to the next; a second unless given. */
  readonly turnMs?: number
  /** For so long an answer is waited for; two seconds unless given. */
  readonly timeoutMs?: number
  /** The longest packet that is sent to remotes on the underlay. */
  readonly longest: number
  /** Whether a failure is about packets of ours to a remote, and not about somebody else's. */
  readonly isOurs: (failure: IcmpFailure) => boolean
  readonly open: typeof IcmpSocket.open
  readonly clock: Clock
  readonly log: Logger
}

type Kind = 'underlay' | 'overlay' | 'mtu'

interface Sent {
  readonly path: RemotePath
  readonly kind: Kind
  readonly size: number
  readonly address: string
  readonly at: number
}

/**
 * Measures the way to every remote, by one packet after the other at a fixed
 * rate: round-trip time and loss on the underlay and through the overlay, and the
 * longest packet that gets through.
 */
export class Prober {
  readonly #options: ProberOptions
  readonly #identifier = randomInt(SEQUENCES)
  readonly #token = randomBytes(8).readBigUInt64BE()
  readonly #sockets = new Map<Family, IcmpSocket>()
  #paths: ReadonlyMap<string, RemotePath> = new Map()
  /** By the address of the underlay; several may share one. */
  #byAddress: ReadonlyMap<string, readonly RemotePath[]> = new Map()
  /** When each is due, the next first: all wait equally long, so this stays in order. */
  #queue: { readonly path: RemotePath; readonly due: number }[] = []
  /** Packets that may yet be answered, the oldest first. */
  readonly #sent = new Map<number, Sent>()
  #sequence = 0
  #sentCount = 0
  /** Why nothing is probed; undefined when it is. */
  #failure: string | undefined
  /** Why a socket could not be opened. */
  #refusal = ''

  constructor(options: ProberOptions) {
    this.#options = options
  }

  /** Why paths are not known; undefined when they are. */
  get trouble(): string | undefined {
    return this.#options.rate === 0 ? '--probe-rate is 0' : this.#failure
  }

  /** Packets sent so far. */
  get sentCount(): number {
    return this.#sentCount
  }

  /** How many remotes there are of each state. */
  get states(): Readonly<Record<PathState, number>> {
    const counts = { unknown: 0, up: 0, silent: 0, unreachable: 0 }
    for (const path of this.#paths.values()) counts[path.state] += 1
    return counts
  }

  /** What is known of those that stay is kept. */
  aimAt(targets: readonly ProbeTarget[]): void {
    const before = this.#paths
    const { longest, clock } = this.#options
    const fresh: RemotePath[] = []
    this.#paths = new Map(
      targets.map(target => {
        const known = before.get(target.id)
        const isSame =
          known !== undefined &&
          formatAddress(known.target.underlay) === formatAddress(target.underlay)
        const { family } = target.underlay
        const path = isSame ? known : new RemotePath(target, LEAST_MTU[family], longest)
        path.target = target
        if (!isSame) fresh.push(path)
        return [target.id, path]
      }),
    )
    const byAddress = new Map<string, RemotePath[]>()
    for (const path of this.#paths.values()) {
      const address = formatAddress(path.target.underlay)
      const others = byAddress.get(address)
      if (others === undefined) byAddress.set(address, [path])
      else others.push(path)
    }
    this.#byAddress = byAddress
    const now = clock.now()
    this.#queue = [
      ...fresh.map(path => ({ path, due: now })),
      ...this.#queue.filter(({ path }) => this.#paths.get(path.target.id) === path),
    ]
  }

  /** Undefined for one that is not aimed at. */
  report(id: string): PathReport | undefined {
    const { clock, longest } = this.#options
    return this.#paths.get(id)?.report(clock.now(), longest)
  }

  /** Probes until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { rate, clock, log } = this.#options
    if (rate === 0) return
    try {
      for (const family of FAMILIES) await this.#open(family)
      if (this.#sockets.size === 0) throw new Error(this.#refusal)
      while (!signal.aborted && this.#failure === undefined) {
        const isSent = await this.#turn(clock.now())
        await clock.sleep(isSent ? 1000 / rate : this.#idleMs(clock.now()), signal)
      }
    } catch (error) {
      this.#failure = (error as Error).message
    } finally {
      for (const socket of this.#sockets.values()) socket.close()
      this.#sockets.clear()
    }
    if (this.#failure !== undefined)
      log.info({ reason: this.#failure }, 'the paths to remotes are not probed')
  }

  async #open(family: Family): Promise<void> {
    const onPacket = (packet: Buffer, source: string): void => {
      this.#receive(family, packet, source)
    }
    const onError = (error: Error): void => {
      this.#failure = error.message
    }
    // A kernel may be without one family.
    try {
      this.#sockets.set(family, await this.#options.open(family, onPacket, onError))
    } catch (error) {
      this.#refusal = (error as Error).message
    }
  }

  #idleMs(now: number): number {
    const due = this.#queue[0]?.due ?? Infinity
    return Math.max(1, Math.min(IDLE_MS, due - now))
  }

  /** Sends the packet that is due. Returns false when none is. */
  async #turn(now: number): Promise<boolean> {
    this.#expire(now)
    const next = this.#queue[0]
    if (next === undefined || next.due > now) return false
    const { path } = next
    this.#queue.shift()
    this.#queue.push({ path, due: now + (this.#options.turnMs ?? TURN_MS) })
    const kind = chooseKind(path, now)
    path.turn += 1
    await this.#send(path, kind, now)
    return true
  }

  async #send(path: RemotePath, kind: Kind, at: number): Promise<void> {
    const { underlay, overlay } = path.target
    const to = kind === 'overlay' ? (overlay ?? underlay) : underlay
    const { family } = to
    const socket = this.#sockets.get(family)
    if (socket === undefined) return
    const sequence = this.#sequence
    this.#sequence = (sequence + 1) % SEQUENCES
    const size = kind === 'mtu' ? path.mtu.next : LEAST_SIZE[family]
    const echo = { identifier: this.#identifier, sequence, token: this.#token }
    const sent = { path, kind, size, address: formatAddress(to), at }
    this.#sent.set(sequence, sent)
    this.#sentCount += 1
    const why = await socket.send(echoRequest(family, echo, size), sent.address)
    if (why === undefined || !this.#sent.delete(sequence)) return
    // Longer than the link is, or nowhere to go.
    if (kind === 'mtu') path.mtu.tooBig(size, 0)
    else path[kind].add(undefined)
  }

  #expire(now: number): void {
    for (const [sequence, sent] of this.#sent) {
      if (now - sent.at < (this.#options.timeoutMs ?? TIMEOUT_MS)) return
      this.#sent.delete(sequence)
      lose(sent)
    }
  }

  #receive(family: Family, packet: Buffer, source: string): void {
    const icmp = readIcmp(family, packet)
    if (icmp === undefined) return
    const now = this.#options.clock.now()
    if (icmp.kind === 'failure') {
      this.#fail(icmp, now)
      return
    }
    if (icmp.identifier !== this.#identifier || icmp.token !== this.#token) return
    const sent = this.#sent.get(icmp.sequence)
    if (sent?.address !== source) return
    this.#sent.delete(icmp.sequence)
    const { path, kind, size, at } = sent
    if (kind === 'mtu') path.mtu.passed(size)
    else path.noteAnswer(kind, now - at)
  }

  #fail(failure: IcmpFailure, now: number): void {
    const { echo, trouble, mtu, destination } = failure
    if (echo?.identifier === this.#identifier) {
      const sent = this.#sent.get(echo.sequence)
      if (sent?.address !== destination) return
      this.#sent.delete(echo.sequence)
      if (sent.kind === 'mtu' && trouble === 'tooBig')
        sent.path.mtu.tooBig(sent.size, mtu)
      else {
        lose(sent)
        sent.path.noteFailure(failure, now)
      }
      return
    }
    const paths = this.#byAddress.get(destination)
    if (paths === undefined || !this.#options.isOurs(failure)) return
    for (const path of paths)
      if (trouble === 'tooBig') path.mtuAskedAt = -Infinity
      else path.noteFailure(failure, now)
  }
}

/** Echoes on the underlay and through the overlay, and every other for the MTU while it is due. */
function chooseKind(path: RemotePath, now: number): Kind {
  const { turn, mtu, target } = path
  const isDue = !mtu.isDone || now - path.mtuAskedAt >= MTU_PERIOD_MS
  if (turn % 2 === 1 && isDue && path.underlay.answered(1) === true) {
    if (mtu.isDone) mtu.restart()
    path.mtuAskedAt = now
    return 'mtu'
  }
  const isOverlays = turn % 4 === 1 || turn % 4 === 2
  return isOverlays && target.overlay !== undefined ? 'overlay' : 'underlay'
}

function lose({ path, kind, size }: Sent): void {
  if (kind === 'mtu') path.mtu.lost(size, path.underlay.answered(1) === true)
  else path[kind].add(undefined)
}
