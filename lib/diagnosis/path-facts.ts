import type { FdbEntry, Neighbour } from '../linux/ip-neighbours.js'
import type { NextHopDevice } from '../linux/ip-routes.js'
import type { PathReport } from '../probe/remote-path.js'
import type { Address } from '../subnet/prefix.js'
import type { HostFacts, RemoteFacts } from './host-facts.js'
import type { SavedTable } from './packet-filter.js'

/** What a packet from one address to another meets on this host, which has one of them. */
export interface PathFacts extends HostFacts {
  /** The end that is on this host, in its subnet. */
  readonly here: Address
  /** The other end; it may be on this host as well. */
  readonly there: Address
  /** Those of the ends on this host at which nobody answers. */
  readonly silent: readonly Address[]
  /** Who leases the subnet of `there`; undefined when nobody does or it is our own. */
  readonly remote: RemoteFacts | undefined
  /** By which the kernel reaches `there`. */
  readonly way: NextHopDevice | undefined
  /** Of `way`, when that is a VXLAN device. */
  readonly vxlan:
    | { readonly neighbours: readonly Neighbour[]; readonly fdb: readonly FdbEntry[] }
    | undefined
  /** What was measured of the way to the remote, or why it was not. */
  readonly measured: PathReport | { readonly failure: string } | undefined
  /** Tables `nat`, of each kind of iptables in use. */
  readonly natTables: readonly SavedTable[]
}
