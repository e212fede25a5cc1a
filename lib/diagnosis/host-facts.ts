import type { HostNetwork } from '../backend/underlay.js'
import type { NextHopDevice } from '../linux/ip-routes.js'
import type { Prefix } from '../subnet/prefix.js'
import type { SavedTable } from './packet-filter.js'

/** What the daemon says of itself, as far as a diagnosis needs it. */
export interface DaemonFacts {
  readonly phase: 'starting' | 'waiting' | 'ready' | 'stopping'
  readonly waitingFor?: string | undefined
  readonly etcdReachable: boolean
  readonly ignoredRecords: readonly { readonly key: string; readonly why: string }[]
  readonly troubles: Readonly<Record<string, string>>
  readonly notes: Readonly<Record<string, string>>
  readonly backend?:
    | {
        readonly type: string
        readonly device: string
        readonly mtu?: number | undefined
      }
    | undefined
  readonly underlay?:
    | {
        readonly device: string
        readonly addresses: readonly string[]
        /** How packets travel: `UDP 8285`; '' where nobody knows. */
        readonly carrier: string
        /** The longest packet that is sent to remotes. */
        readonly longest: number
        /** See Reach. */
        readonly isAnsweredAtBase: boolean
        readonly hasMtuOption: boolean
        readonly ports: readonly number[]
        /** At which other hosts are asked for their half of a way; 0 for none. */
        readonly peerPort: number
      }
    | undefined
  readonly remotes?: readonly RemoteFacts[] | undefined
}

export interface RemoteFacts {
  /** Of each family, with ` and ` between them. */
  readonly subnet: string
  /** By which packets leave; undefined when the backend makes no routes. */
  readonly device?: string | undefined
  /** Of each family of the subnet, where they differ. */
  readonly devices?: readonly string[] | undefined
  readonly record: {
    readonly PublicIP: string
    readonly PublicIPv6?: string | null | undefined
    readonly BackendType?: string | undefined
    readonly BackendData?: unknown
  }
}

export interface EtcdFacts {
  readonly endpoints: readonly string[]
  /** Why it cannot be asked; undefined when it answers. */
  readonly trouble: string | undefined
  /** Whether nobody answers at all, and not one who refuses. */
  readonly isAway: boolean
  /** How far its clock is ahead of this host's; undefined when nobody knows. */
  readonly aheadMs: number | undefined
}

/** This host as it is at one moment. */
export interface HostFacts {
  readonly isRoot: boolean
  readonly daemon: DaemonFacts | undefined
  /** The overlay's ranges; none when nobody knows. */
  readonly networks: readonly Prefix[]
  /** This host's part of them. */
  readonly subnet: readonly Prefix[]
  readonly host: HostNetwork
  /** Devices of the overlay that the daemon makes, or made when it ran. */
  readonly ownDevices: ReadonlySet<string>
  /** The address by which others have known this host last. */
  readonly publicIp: string | undefined
  /** A module of the kernel that the backend needs and that cannot be had. */
  readonly missingModule: string | undefined
  /** What speaks against the network on this host: see findOverlaps. */
  readonly overlaps: readonly string[]
  /** By their paths below /proc/sys, since the name of a device may have dots. */
  readonly sysctls: ReadonlyMap<string, string>
  readonly etcd: EtcdFacts
  /** By which the kernel reaches the public IP of each remote. */
  readonly ways: ReadonlyMap<string, NextHopDevice | undefined>
  /** Tables `filter`, of each kind of iptables in use. */
  readonly filters: readonly SavedTable[]
  /** The MAC address of another host that answers for our public IP. */
  readonly rival: string | undefined
}
