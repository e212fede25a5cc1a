import t from 'tap'
import { batch } from '../../../lib/linux/ip-batch.js'
import { parseLinks } from '../../../lib/linux/ip-links.js'
import { parseRoutes } from '../../../lib/linux/ip-routes.js'
import { fc, holds } from '../../helpers/property.js'

/** What iproute2 6.1 printed on a host with a veth, a bridge, and an address that is being tested. */
const LINKS = `[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"qdisc":"noqueue","operstate":"UNKNOWN","group":"default","txqlen":1000,"link_type":"loopback","address":"00:00:00:00:00:00","broadcast":"00:00:00:00:00:00","promiscuity":0,"min_mtu":0,"max_mtu":0,"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host","label":"lo","valid_life_time":4294967295,"preferred_life_time":4294967295}]},
{"ifindex":3,"link":"veth1","ifname":"veth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"qdisc":"noqueue","operstate":"UP","address":"12:6b:9f:b6:3f:38","linkinfo":{"info_kind":"veth"},"addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24,"scope":"global","dynamic":true,"label":"veth0"},{},{"family":"inet6","local":"fe80::106b:9fff:feb6:3f38","prefixlen":64,"scope":"link","tentative":true}]},
{"ifindex":4,"ifname":"br0","flags":["BROADCAST","MULTICAST"],"mtu":1500,"operstate":"DOWN","address":"8e:bb:f8:99:c0:26","linkinfo":{"info_kind":"bridge","info_data":{"hello_timer":0.00}},"addr_info":[]},
{"ifindex":5,"ifname":"flannel0","flags":["POINTOPOINT","NOARP","UP"],"mtu":1472,"linkinfo":{"info_kind":"tun"}}]`

const ROUTES = `[{"dst":"default","gateway":"192.0.2.254","dev":"veth0","flags":[]},{"dst":"10.6.0.0/16","via":{"family":"inet6","host":"fe80::1"},"dev":"veth0","flags":[]},{"dst":"10.7.0.0/16","flags":[],"nexthops":[{"gateway":"192.0.2.2","dev":"veth0","weight":1,"flags":[]},{"via":{"family":"inet6","host":"fe80::2"},"dev":"veth0","weight":2,"flags":["linkdown"]}]},{"type":"unreachable","dst":"10.8.0.0/24","metric":5,"flags":[]},{"type":"blackhole","dst":"10.9.0.1","flags":[]},{"dst":"192.0.2.0/24","dev":"veth0","protocol":"kernel","scope":"link","prefsrc":"192.0.2.1","flags":[]}]`

t.test('links come with their kind, state and addresses', t => {
  const [lo, veth, bridge, tun] = parseLinks(LINKS)

  t.match(lo, { index: 1, name: 'lo', mtu: 65_536, up: true, kind: undefined })
  t.match(veth, { kind: 'veth', mac: '12:6b:9f:b6:3f:38' })
  t.strictSame(
    veth?.addresses.map(({ family, local, prefixLength, scope, dynamic, tentative }) =>
      [family, local, prefixLength, scope, dynamic, tentative].join(' '),
    ),
    [
      '4 192.0.2.1 24 global true false',
      '6 fe80::106b:9fff:feb6:3f38 64 link false true',
    ],
  )
  t.match(bridge, { kind: 'bridge', up: false, addresses: [] })
  t.match(tun, { kind: 'tun', mac: undefined, addresses: [] })
  t.end()
})

t.test('routes come with a length, all their next hops, and their protocol', t => {
  const lines = parseRoutes(ROUTES, 4).map(
    ({ destination, type, protocol, metric, nextHops }) =>
      `${type} ${destination} ${protocol} ${metric} ` +
      nextHops.map(hop => `${hop.device}/${hop.gateway ?? 'on link'}`).join(', '),
  )
  t.strictSame(lines, [
    'unicast 0.0.0.0/0 boot 0 veth0/192.0.2.254',
    'unicast 10.6.0.0/16 boot 0 veth0/fe80::1',
    'unicast 10.7.0.0/16 boot 0 veth0/192.0.2.2, veth0/fe80::2',
    'unreachable 10.8.0.0/24 boot 5 ',
    'blackhole 10.9.0.1/32 boot 0 ',
    'unicast 192.0.2.0/24 kernel 0 veth0/on link',
  ])
  t.equal(parseRoutes('[{"dst":"default","dev":"a"}]', 6)[0]?.destination, '::/0')
  t.equal(parseRoutes('[{"dst":"fd00::1","dev":"a"}]', 6)[0]?.destination, 'fd00::1/128')
  t.end()
})

t.test('an empty answer is an empty list', t => {
  t.strictSame(parseRoutes('', 4), [])
  t.strictSame(parseRoutes('[ ]\n', 4), [])
  t.strictSame(parseLinks('\n'), [])
  t.end()
})

t.test('text that ip(8) does not print is refused with what is wrong', t => {
  t.throws(() => parseLinks('[2'), /cannot read what ip\(8\) printed: SyntaxError/)
  t.throws(() => parseLinks('{}'), /cannot read what ip\(8\) printed: .*expected array/)
  t.throws(
    () => parseLinks('[{"ifindex":"1","ifname":"lo","mtu":1,"flags":[]}]'),
    /ifindex/,
  )
  t.throws(() => parseRoutes('[{"gateway":"1.2.3.4"}]', 4), /dst/)
  t.throws(() => parseRoutes('Error: something', 4), SyntaxError)
  t.end()
})

t.test('any JSON is read or refused with SyntaxError', async t => {
  const hostile = fc.oneof(
    fc.json(),
    fc.string(),
    fc
      .constantFrom(LINKS, ROUTES)
      .chain(text => fc.nat(text.length).map(end => text.slice(0, end))),
  )
  const isSafe = (parse: () => unknown): boolean => {
    try {
      parse()
      return true
    } catch (error) {
      return error instanceof SyntaxError
    }
  }
  await holds(
    t,
    fc.property(
      hostile,
      text => isSafe(() => parseLinks(text)) && isSafe(() => parseRoutes(text, 4)),
    ),
  )
})

t.test('an empty batch starts no program', async t => {
  await t.resolves(batch([]))
})
