import t from 'tap'
import { BackendError } from '../../../lib/backend/errors.js'
import {
  type HostNetwork,
  type UnderlayOptions,
  chooseUnderlay,
} from '../../../lib/backend/underlay.js'
import { formatAddress, parseAddress } from '../../../lib/subnet/prefix.js'
import { hostNetwork, link } from '../../helpers/hosts.js'

const HOST = hostNetwork({
  links: [
    link('lo', ['127.0.0.1/8 host', '::1/128 host'], { mtu: 65_536 }),
    link('eth0', [
      '192.0.2.1/24 dynamic',
      '192.0.2.2/24',
      'fe80::1/64 link',
      'fd00::1/64',
    ]),
    link('eth1', ['198.51.100.1/24', '198.51.100.9/24 deprecated', 'fd01::1/64'], {
      mtu: 9000,
    }),
    link('docker0', ['172.17.0.1/16'], { linkinfo: { info_kind: 'bridge' } }),
    link('bare', []),
  ],
  routes4: [
    { dst: 'default', gateway: '198.51.100.254', dev: 'eth1', metric: 200, flags: [] },
    { dst: 'default', gateway: '192.0.2.254', dev: 'eth0', metric: 100, flags: [] },
    { dst: '192.0.2.0/24', dev: 'eth0', protocol: 'kernel', scope: 'link', flags: [] },
  ],
  routes6: [{ dst: 'default', gateway: 'fe80::9', dev: 'eth0', metric: 1024, flags: [] }],
})

const NONE: UnderlayOptions = {
  ifaces: [],
  ifaceRegexes: [],
  ifaceCanReach: '',
  publicIps: {},
  families: [4],
}

/** `device address…`, or the error's message. */
function choose(options: Partial<UnderlayOptions>, host: HostNetwork = HOST): string {
  try {
    const { device, addresses } = chooseUnderlay({ ...NONE, ...options }, host)
    return [device, ...Object.values(addresses).map(formatAddress)].join(' ')
  } catch (error) {
    if (error instanceof BackendError && error.code === 'ERR_UNDERLAY')
      return error.message
    throw error
  }
}

t.test('without options it is the interface of the default route of lowest metric', t => {
  const underlay = chooseUnderlay(NONE, HOST)

  t.match(underlay, { device: 'eth0', mtu: 1500, mac: '52:54:00:12:34:56', notes: [] })
  t.strictSame(underlay.addresses, { 4: parseAddress('192.0.2.2') }, 'permanent first')
  t.strictSame(underlay.publicAddresses, underlay.addresses)
  t.end()
})

t.test('an interface is chosen by name or by any address of its', t => {
  t.equal(choose({ ifaces: ['eth1'] }), 'eth1 198.51.100.1')
  t.equal(choose({ ifaces: ['192.0.2.1'] }), 'eth0 192.0.2.1')
  t.equal(
    choose({ ifaces: ['nowhere', 'eth1', 'eth0'] }),
    'eth1 198.51.100.1',
    'in order',
  )
  t.equal(choose({ ifaces: ['fd01::1'] }), 'eth1 198.51.100.1')
  t.end()
})

t.test('a regular expression is tried on usable addresses, then on names', t => {
  t.equal(choose({ ifaceRegexes: ['^198\\.51\\.'] }), 'eth1 198.51.100.1')
  t.equal(choose({ ifaceRegexes: ['192\\.0\\.2\\.1'] }), 'eth0 192.0.2.1')
  t.equal(choose({ ifaceRegexes: ['^docker'] }), 'docker0 172.17.0.1')
  t.equal(choose({ ifaceRegexes: ['nothing', 'eth1$'] }), 'eth1 198.51.100.1')
  t.equal(choose({ ifaces: ['nowhere'], ifaceRegexes: ['eth1'] }), 'eth1 198.51.100.1')
  t.match(
    choose({ ifaceRegexes: ['198.51.100.9'] }),
    /^Failed to find interface/,
    'deprecated',
  )
  t.match(
    choose({ ifaceRegexes: ['eth('] }),
    /^--iface-regex: Invalid regular expression/,
  )
  t.end()
})

t.test('an interface is chosen by where the kernel would send', t => {
  const reach = { device: 'eth1', source: '198.51.100.1' }
  t.equal(
    choose({ ifaceCanReach: '203.0.113.1' }, { ...HOST, reach }),
    'eth1 198.51.100.1',
  )
  t.match(
    choose({ ifaceCanReach: '203.0.113.1' }),
    /--iface-can-reach=203\.0\.113\.1; this host/,
  )
  t.end()
})

t.test('when nothing matches, all that was asked for and all there is are named', t => {
  t.equal(
    choose({ ifaces: ['eth7'], ifaceRegexes: ['^ens'] }),
    'Failed to find interface to use that matches the interfaces and/or regexes provided: ' +
      '--iface=eth7 --iface-regex=^ens; this host has lo, eth0, eth1, docker0, bare',
  )
  t.end()
})

t.test('a public IP of an interface chooses that interface', t => {
  t.equal(choose({ publicIps: { 4: parseAddress('198.51.100.1') } }), 'eth1 198.51.100.1')
  t.end()
})

t.test('a public IP that no interface has means NAT: told, and published', t => {
  const publicIp = parseAddress('203.0.113.7')
  const underlay = chooseUnderlay({ ...NONE, publicIps: { 4: publicIp } }, HOST)

  t.equal(underlay.device, 'eth0')
  t.strictSame(underlay.publicAddresses, { 4: publicIp })
  t.strictSame(underlay.addresses, { 4: parseAddress('192.0.2.2') })
  t.match(underlay.notes.join(), /no interface has 203\.0\.113\.7, so .* behind NAT/)
  t.end()
})

t.test('with both families one interface must have both default routes', t => {
  t.equal(
    choose({ families: [4, 6] }),
    'eth0 192.0.2.2 fd00::1',
    'global before link-local',
  )
  const split = {
    ...HOST,
    routes: HOST.routes.map(route =>
      route.destination === '::/0'
        ? { ...route, nextHops: [{ device: 'eth1', gateway: undefined }] }
        : route,
    ),
  }
  t.equal(
    choose({ families: [4, 6] }, split),
    'the IPv4 default route is on eth0 and the IPv6 one on eth1; choose with --iface',
  )
  t.equal(choose({ families: [4, 6], ifaces: ['eth1'] }), 'eth1 198.51.100.1 fd01::1')
  t.end()
})

t.test('a multipath default route counts by its first next hop that is up', t => {
  const host = hostNetwork({
    links: [
      link('down0', ['192.0.2.1/24'], { flags: ['BROADCAST'] }),
      link('up0', ['198.51.100.1/24']),
    ],
    routes4: [
      {
        dst: 'default',
        nexthops: [
          { gateway: '192.0.2.254', dev: 'down0' },
          { gateway: '198.51.100.254', dev: 'up0' },
        ],
      },
    ],
  })
  t.equal(choose({}, host), 'up0 198.51.100.1')
  t.end()
})

t.test('a host without a default route, address or MTU is told what to do', t => {
  const none = { links: HOST.links, routes: [] }
  t.equal(
    choose({}, none),
    'unable to find default route; name the interface to other hosts with --iface',
  )
  const unreachable = hostNetwork({
    links: [link('eth0', ['192.0.2.1/24'])],
    routes4: [{ type: 'unreachable', dst: 'default', metric: 1 }],
  })
  t.match(choose({}, unreachable), /^unable to find default route/)
  t.equal(
    choose({ ifaces: ['bare'] }),
    'interface bare has no usable IPv4 address; choose another with --iface',
  )
  t.match(choose({ ifaces: ['lo'] }), /^interface lo has no usable IPv4 address/)
  const silent = {
    links: HOST.links.map(each => ({ ...each, mtu: 0 })),
    routes: HOST.routes,
  }
  t.equal(choose({}, silent), 'interface eth0 has an MTU of 0')
  t.end()
})

t.test('of equals the address that the host has had stays', t => {
  const host = hostNetwork({
    links: [
      link('eth0', [
        '2001:db8::9/64',
        '2001:db8::1/64',
        '2001:db8::7/64 dynamic temporary',
        '192.0.2.9/24',
        '192.0.2.1/24',
      ]),
    ],
    routes4: [],
    routes6: [],
  })
  const options = { ifaces: ['eth0'], families: [4, 6] as const }
  const chosen = (four: string, six: string): string =>
    choose({ ...options, present: { 4: parseAddress(four), 6: parseAddress(six) } }, host)

  t.equal(choose(options, host), 'eth0 192.0.2.9 2001:db8::9')
  t.equal(chosen('192.0.2.1', '2001:db8::1'), 'eth0 192.0.2.1 2001:db8::1')
  t.equal(chosen('192.0.2.3', '2001:db8::3'), 'eth0 192.0.2.9 2001:db8::9', 'gone')
  t.equal(chosen('192.0.2.1', '2001:db8::7'), 'eth0 192.0.2.1 2001:db8::9', 'no equal')
  t.end()
})
