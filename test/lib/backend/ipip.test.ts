import t from 'tap'
import { ipipDevice, wantIpip } from '../../../lib/backend/ipip.js'
import { linesToEnsure } from '../../../lib/backend/kernel/own-link.js'
import { type Link, parseLinks } from '../../../lib/linux/ip-links.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'
import { remote } from './remote-walks.js'

const DEVICE = ipipDevice({
  local: '192.0.2.1',
  alias: 'flanneld:net',
  mtu: 1480,
  addresses: [{ family: 4, address: '10.5.1.0' }],
  networks: [parsePrefix('10.5.0.0/16')],
})

/** As ip(8) tells of it on Linux 6.1. */
function linkOf(fields: object, data: object = {}): Link | undefined {
  const info = { proto: 'any', remote: 'any', local: '192.0.2.1', ttl: 0, ...data }
  const link = {
    ifindex: 3,
    ifname: 'flannel.ipip',
    flags: ['NOARP', 'UP', 'LOWER_UP'],
    mtu: 1480,
    link_type: 'ipip',
    address: '192.0.2.1',
    ifalias: 'flanneld:net',
    linkinfo: { info_kind: 'ipip', info_data: info },
    addr_info: [{ family: 'inet', local: '10.5.1.0', prefixlen: 32, scope: 'global' }],
    ...fields,
  }
  return parseLinks(JSON.stringify([link]))[0]
}

const MAKE = [
  'link add flannel.ipip type ipip local 192.0.2.1',
  'link set dev flannel.ipip alias flanneld:net',
  'link set dev flannel.ipip addrgenmode none',
  'link set dev flannel.ipip mtu 1480 up',
  'address add 10.5.1.0/32 dev flannel.ipip',
]

t.test('the device is made, mended, or made anew', t => {
  for (const [what, link, lines] of [
    ['none', undefined, MAKE],
    ['right', linkOf({}), []],
    ['MTU', linkOf({ mtu: 1400 }), ['link set dev flannel.ipip mtu 1480']],
    ['down', linkOf({ flags: [] }), ['link set dev flannel.ipip up']],
    [
      'flannel’s own',
      linkOf({ ifalias: undefined }),
      ['link set dev flannel.ipip alias flanneld:net'],
    ],
    [
      'another address of ours',
      linkOf({}, { local: '192.0.2.9' }),
      ['link delete flannel.ipip', ...MAKE],
    ],
    [
      'for one remote',
      linkOf({}, { remote: '192.0.2.9' }),
      ['link delete flannel.ipip', ...MAKE],
    ],
  ] as const)
    t.strictSame(linesToEnsure(DEVICE, link), lines, what)
  t.throws(() => linesToEnsure(DEVICE, linkOf({ linkinfo: { info_kind: 'gre' } })), {
    message: /^there is a device flannel\.ipip of kind gre; remove it, or set Backend/,
  })
  t.throws(() => linesToEnsure(DEVICE, linkOf({ ifalias: 'flanneld:other' })), {
    message: /^the device flannel\.ipip is that of flanneld:other; /,
  })
  t.end()
})

t.test('a remote is one route, through the tunnel or on the link', t => {
  const nowhere = remote(4)
  Reflect.deleteProperty(nowhere.holder, 'publicIp')
  const direct = { device: 'eth0', addresses: new Set(['192.0.2.3']) }

  const { objects, skipped } = wantIpip([remote(2), remote(3), nowhere], direct)

  t.strictSame(
    objects.flatMap(({ put }) => put),
    [
      'route replace 10.5.2.0/24 via 192.0.2.2 dev flannel.ipip onlink proto 76',
      'route replace 10.5.3.0/24 via 192.0.2.3 dev eth0 proto 76',
    ],
  )
  t.match(skipped, [{ why: 'its record has no PublicIP of IPv4' }])
  t.end()
})
