import { formatAddress } from '../subnet/prefix.js'
import { EchoWindow } from './echo-window.js'
import type { IcmpFailure, IcmpTrouble } from './icmp.js'
import { MtuSearch } from './mtu-search.js'
import type { ProbeTarget } from './prober.js'

/** After so many echoes without an answer a remote is silent. */
const SILENT_AFTER = 3

/** For so long a failure that was heard counts. */
const FAILURE_MS = 60_000

/** `up`: answers through the overlay, or where that cannot be asked, on the underlay. */
export type PathState = 'unknown' | 'up' | 'silent' | 'unreachable'

/** For the status, ready for JSON. */
export interface PathReport {
  readonly state: PathState
  /** On the underlay: milliseconds; null before the first answer. */
  readonly roundTripMs: number | null
  /** Of the latest twenty, 0 to 1. */
  readonly loss: number | null
  readonly overlayRoundTripMs: number | null
  readonly overlayLoss: number | null
  /** Bytes of the longest packet that the underlay takes; null before it is known. */
  readonly pathMtu: number | null
  /** What ICMP last said of our packets, while they are not answered; null for nothing. */
  readonly heard: IcmpTrouble | null
  /** In the operator's words; null when there is nothing to say. */
  readonly trouble: string | null
}

/** What is known of the way to one remote. */
export class RemotePath {
  readonly underlay = new EchoWindow()
  readonly overlay = new EchoWindow()
  readonly mtu: MtuSearch
  target: ProbeTarget
  /** When the path MTU was asked for last. */
  mtuAskedAt = -Infinity
  turn = 0
  #failure: { readonly what: IcmpFailure; readonly at: number } | undefined

  constructor(target: ProbeTarget, least: number, full: number) {
    this.target = target
    this.mtu = new MtuSearch(least, full)
  }

  noteAnswer(kind: 'underlay' | 'overlay', roundTripMs: number): void {
    this[kind].add(roundTripMs)
    // What stood in the way does no longer.
    if (kind === 'overlay' || this.target.overlay === undefined) this.#failure = undefined
  }

  /** An error came about a packet of ours to the remote. */
  noteFailure(what: IcmpFailure, now: number): void {
    this.#failure = { what, at: now }
  }

  /** @param longest packet that is sent to remotes on the underlay. */
  report(now: number, longest: number): PathReport {
    const { underlay, overlay, mtu } = this
    return {
      state: this.state,
      roundTripMs: rounded(underlay.roundTripMs),
      loss: underlay.loss ?? null,
      overlayRoundTripMs: rounded(overlay.roundTripMs),
      overlayLoss: overlay.loss ?? null,
      pathMtu: mtu.pathMtu ?? null,
      heard: this.#heard(now)?.trouble ?? null,
      trouble: this.#trouble(now, longest) ?? null,
    }
  }

  get state(): PathState {
    const below = this.underlay.answered(SILENT_AFTER)
    const above = this.target.overlay && this.overlay.answered(SILENT_AFTER)
    if (this.target.overlay === undefined)
      return below === undefined ? 'unknown' : below ? 'up' : 'unreachable'
    if (above === undefined) return 'unknown'
    if (above) return 'up'
    return below === undefined ? 'unknown' : below ? 'silent' : 'unreachable'
  }

  #heard(now: number): IcmpFailure | undefined {
    if (this.state === 'up' || this.#failure === undefined) return undefined
    const { what, at } = this.#failure
    return now - at < FAILURE_MS ? what : undefined
  }

  #trouble(now: number, longest: number): string | undefined {
    const { state, target } = this
    const address = formatAddress(target.underlay)
    const heard = this.#heard(now)
    if (heard !== undefined) return explain(heard, address)
    if (state === 'unreachable')
      return `${address} does not answer, neither through the overlay nor on the underlay`
    if (state === 'silent')
      return `${address} answers on the underlay, and nothing through the overlay: a firewall drops ${target.carrier}, or flanneld there does not run`
    const { pathMtu } = this.mtu
    if (pathMtu !== undefined && pathMtu < longest) {
      const option = target.hasMtuOption ? `, or set Backend.MTU to ${pathMtu}` : ''
      return `the way to ${address} takes packets of ${pathMtu} bytes, and ours are up to ${longest}: full packets are lost; lower the MTU of the link${option}`
    }
    return undefined
  }
}

function explain({ trouble, port }: IcmpFailure, address: string): string {
  switch (trouble) {
    case 'noPort':
      return `nobody listens on UDP ${port ?? 0} of ${address}: flanneld there does not run, or a firewall rejects it`
    case 'noProtocol':
      return `${address} has no tunnel for our packets: flanneld there does not run`
    case 'refused':
      return `a firewall on the way to ${address} refuses our packets`
    case 'tooBig':
    case 'unreachable':
      return `${address} cannot be reached: a router, or the kernel here, says so`
  }
}

function rounded(milliseconds: number | undefined): number | null {
  return milliseconds === undefined ? null : Math.round(milliseconds * 1000) / 1000
}
