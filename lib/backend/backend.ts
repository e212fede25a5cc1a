import type { Logger } from 'pino'
import type { Clock } from '../subnet/clock.js'
import type { NetworkConfig } from '../subnet/network-config.js'
import type { Address, Family } from '../subnet/prefix.js'
import type { Subnet } from '../subnet/subnet-key.js'
import type { Holder } from '../subnet/subnet-record.js'
import type { Underlay } from './underlay.js'

/** Another host, as a backend sees it. */
export interface Remote {
  readonly subnet: Subnet
  /** Of the record: of two that contradict each other the later counts. */
  readonly modRevision?: bigint
  readonly holder: Holder
}

/** The address that a remote is reached by in a family. */
export function publicAddress({ holder }: Remote, family: Family): Address | undefined {
  return family === 4 ? holder.publicIp : holder.publicIpv6
}

/** How packets to a remote leave this host. */
export interface RouteToRemote {
  readonly device: string
  /** By which each family of the subnet leaves, IPv4 first, where they differ. */
  readonly devices?: readonly string[]
  /** The address that the packet is handed to; with a port when it travels in UDP of ours. */
  readonly nextHop: string
}

export interface BackendContext {
  readonly config: NetworkConfig
  readonly underlay: Underlay
  /** Where what must outlive a reboot is kept; exists. */
  readonly stateDir: string
  /** Where sockets are; exists, of this etcd prefix alone. */
  readonly runDir: string
  readonly verify: 'strict' | 'inner' | 'off'
  /** Processes that carry packets, where we carry them. */
  readonly udpQueues: number
  /** Where the operator keeps the private key of WireGuard; undefined for our own place. */
  readonly wireguardKeyFile?: string | undefined
  /** Milliseconds between two looks at rules of the firewall. */
  readonly resyncMs: number
  readonly clock: Clock
  readonly log: Logger
}

/** What a backend has remotes know of this host. */
export type LeaseData = Pick<Holder, 'backendData' | 'backendV6Data'>

/** What a backend can say before this host has a subnet: it goes into the lease and subnet.env. */
export interface BackendPlan {
  /** `BackendType` of our record, '' for none. */
  readonly leaseType: string
  readonly overlayMtu: number

  /** What goes into our record; the same at every start. Throws BackendError. */
  leaseData?(): Promise<LeaseData>

  /**
   * Makes the device and what else does not depend on remotes. Throws
   * BackendError and leaves nothing behind.
   */
  start(subnet: Subnet): Promise<Backend>

  /** The longest packet that it sends on the underlay, if the configuration says so. */
  readonly outerMtu?: number | undefined

  /** This machine is a copy of another: what remotes know that one by is made anew. */
  forget?(): Promise<void>

  /** Ends what an earlier run of the daemon left forwarding. */
  endLeft(): Promise<void>
}

/** What tells whether packets of ours reach a remote. */
export interface Reach {
  /** Every host has the first address of its subnet on a device, and answers there. */
  readonly isAnsweredAtBase: boolean
  /** How packets travel, for people: `UDP 8285`. */
  readonly carrier: string
  /** UDP ports of remotes that packets of ours go to. */
  readonly ports: ReadonlySet<number>
  /** `Backend.MTU` makes packets shorter. */
  readonly hasMtuOption: boolean
}

/** Of a backend that leaves to others how packets travel, or to the kernel's plain routes. */
export const UNKNOWN_REACH: Reach = {
  isAnsweredAtBase: false,
  carrier: '',
  ports: new Set(),
  hasMtuOption: false,
}

/** What a device that keeps a session with each remote knows of it. */
export interface Session {
  /** Seconds since both sides have agreed on keys; null when they never have. */
  readonly handshakeSeconds: number | null
  readonly sentBytes: number
  readonly receivedBytes: number
  /** Why there is none, in the operator's words; null when there is. */
  readonly trouble: string | null
}

/** A backend makes this host match the leases. */
export interface Backend {
  /** Device that packets to remotes leave by. */
  readonly device: string

  /** Makes the host match the whole list of remotes. Calling it twice is harmless. */
  apply(remotes: readonly Remote[]): Promise<void>

  /** The way to a remote that was applied; undefined when this backend makes none. */
  routeTo(remote: Remote): RouteToRemote | undefined

  readonly reach: Reach

  /** The sessions with remotes, where there are such. Throws Error when they cannot be read. */
  sessions?(): Promise<(remote: Remote) => Session | undefined>

  /** Allows forwarding until `untilMs` of the clock, for backends whose packets we carry. */
  permit(untilMs: number): Promise<void>

  /** Watches over the backend's own parts until `signal` aborts; rejects when they cannot be kept up. */
  run(signal: AbortSignal): Promise<void>

  /** What keeps packets from their way, for the operator; undefined when nothing does. */
  readonly trouble: string | undefined

  /** What an operator should know although packets flow. */
  readonly note: string | undefined

  /** What the status shows, ready for JSON. */
  describe(): Promise<Record<string, unknown>>

  /**
   * Ends our part.
   * @param how `keep` leaves packets flowing, as the kernel's routes do; `end` takes everything down.
   */
  close(how: 'keep' | 'end'): Promise<void>
}
