/** Bytes of the headers that encapsulation adds (RFC 791, RFC 768). */
const IPV4_HEADER = 20
const UDP_HEADER = 8

/** What each backend takes off the underlay's MTU. */
export const OVERHEAD = {
  udp: IPV4_HEADER + UDP_HEADER,
  alloc: 0,
} as const
