import type { ForwardingState } from '../../lib/encap/forwarding-table.js'
import { ip, range } from './packets.js'

/** This host has 10.5.72.0/24 and fd00:5:0:72::/64; two remotes, the first of them behind NAT. */
export const STATE: ForwardingState = {
  families: [
    { network: range('10.5.0.0/16'), subnet: range('10.5.72.0/24') },
    { network: range('fd00:5::/48'), subnet: range('fd00:5:0:72::/64') },
  ],
  verify: 'strict',
  copyDscp: false,
  hops: [
    {
      subnets: [range('10.5.1.0/24'), range('fd00:5:0:1::/64')],
      address: ip('192.0.2.1'),
      port: 8285,
      sources: [ip('198.51.100.1')],
      carriesEcn: true,
    },
    {
      subnets: [range('10.5.2.0/24'), range('fd00:5:0:2::/64')],
      address: ip('192.0.2.2'),
      port: 8285,
      sources: [],
      carriesEcn: true,
    },
  ],
}
