import t from 'tap'
import { type OverlapCheck, findOverlaps } from '../../../lib/backend/overlap.js'
import { parseAddress, parsePrefix } from '../../../lib/subnet/prefix.js'
import { hostNetwork, link } from '../../helpers/hosts.js'

const HOST = hostNetwork({
  links: [
    link('lo', ['127.0.0.1/8 host']),
    link('eth0', ['192.168.7.2/24']),
    link('docker0', ['172.17.0.1/16'], { linkinfo: { info_kind: 'bridge' } }),
  ],
  routes4: [
    { dst: 'default', gateway: '10.99.0.1', dev: 'eth0', flags: ['onlink'] },
    { dst: '192.168.7.0/24', dev: 'eth0', protocol: 'kernel', scope: 'link', flags: [] },
    { dst: '10.200.0.0/16', gateway: '192.168.7.9', dev: 'eth0', flags: [] },
    { type: 'blackhole', dst: '10.201.1.0/24', flags: [] },
    { dst: '10.5.0.0/16', dev: 'flannel0', protocol: '76', flags: [] },
  ],
  routes6: [{ dst: 'fd00::/16', dev: 'eth0', flags: [] }],
})

function overlaps(network: string, more: Partial<OverlapCheck> = {}): string[] {
  return findOverlaps({
    network: parsePrefix(network),
    host: HOST,
    endpoints: [parseAddress('10.44.0.5'), parseAddress('fd00::5')],
    ownDevices: [],
    ...more,
  })
}

t.test('a Network that nothing uses is fine', t => {
  t.strictSame(overlaps('10.6.0.0/16'), [])
  t.strictSame(overlaps('10.5.0.0/16'), [], 'the route of an earlier run is ours')
  t.end()
})

t.test('what uses addresses of the Network is named, and so is the Network', t => {
  t.strictSame(overlaps('10.99.0.0/16'), [
    'network 10.99.0.0/16 contains the default gateway 10.99.0.1 (eth0)',
  ])
  t.strictSame(overlaps('192.168.0.0/16'), [
    'network 192.168.0.0/16 overlaps interface eth0 (192.168.7.2/24)',
  ])
  t.strictSame(overlaps('172.17.128.0/17'), [
    'network 172.17.128.0/17 overlaps bridge docker0 (172.17.0.1/16)',
  ])
  t.strictSame(overlaps('10.44.0.0/16'), [
    'network 10.44.0.0/16 contains etcd at 10.44.0.5',
  ])
  t.strictSame(overlaps('10.200.5.0/24'), [
    'network 10.200.5.0/24 overlaps the route 10.200.0.0/16 via 192.168.7.9',
  ])
  t.strictSame(overlaps('10.201.0.0/16'), [
    'network 10.201.0.0/16 overlaps the route 10.201.1.0/24 via blackhole',
  ])
  t.end()
})

t.test('several overlaps are all told', t => {
  t.equal(overlaps('10.0.0.0/8').length, 4)
  t.equal(overlaps('0.0.0.0/0').length, 7)
  t.end()
})

t.test('IPv6 is compared with IPv6 alone', t => {
  t.strictSame(overlaps('fd00::/48'), [
    'network fd00::/48 contains etcd at fd00::5',
    'network fd00::/48 overlaps the route fd00::/16 via eth0',
  ])
  t.end()
})

t.test(
  'a bridge in the subnet that this host held, and our own device, are no overlap',
  t => {
    const host = hostNetwork({
      links: [
        link('flannel0', ['10.5.72.0/32']),
        link('docker0', ['10.5.72.1/24'], { linkinfo: { info_kind: 'bridge' } }),
      ],
      routes4: [{ dst: '10.5.0.0/16', dev: 'flannel0', flags: [] }],
    })
    const more = { host, ownDevices: ['flannel0'] }

    t.strictSame(
      overlaps('10.5.0.0/16', {
        ...more,
        ownSubnets: ['10.5.8.0/24', '10.5.72.0/24'].map(parsePrefix),
      }),
      [],
    )
    t.strictSame(
      overlaps('10.5.0.0/16', { ...more, ownSubnets: [parsePrefix('10.5.9.0/24')] }),
      [
        "network 10.5.0.0/16 overlaps bridge docker0 (10.5.72.1/24), unless it is Docker's from a subnet that this host once had: then ip link delete docker0, and restart Docker",
      ],
    )
    t.end()
  },
)
