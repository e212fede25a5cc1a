import { IPV4_HEADER, IPV6_HEADER } from '../encap/ip.js'
import { UDP_HEADER } from '../encap/transport.js'
import type { Family } from '../subnet/prefix.js'

const IP_HEADER = { 4: IPV4_HEADER, 6: IPV6_HEADER } as const

/** What each backend takes off the MTU of an underlay of that family. */
export const OVERHEAD = {
  udp: (underlay: Family): number => IP_HEADER[underlay] + UDP_HEADER,
  /** Outer IP, UDP and VXLAN headers, and the inner Ethernet header. */
  vxlan: (underlay: Family): number => IP_HEADER[underlay] + UDP_HEADER + 8 + 14,
  /** Outer IPv6 and UDP headers, WireGuard's own and its tag, whatever the underlay is. */
  wireguard: (): number => IPV6_HEADER + UDP_HEADER + 16 + 16,
  ipip: (): number => IPV4_HEADER,
  hostGw: (): number => 0,
  alloc: (): number => 0,
} as const
