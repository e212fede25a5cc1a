import t from 'tap'
import { runChecks } from '../../../lib/diagnosis/check.js'
import { HOST_CHECKS } from '../../../lib/diagnosis/host-checks.js'
import type { HostFacts } from '../../../lib/diagnosis/host-facts.js'
import type { SavedTable } from '../../../lib/diagnosis/packet-filter.js'
import { WELL_HOST } from '../../helpers/host-facts.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'

/** What is found on a host that differs from one that is well. */
function found(facts: Partial<HostFacts>): object[] {
  return runChecks(HOST_CHECKS, { ...WELL_HOST, ...facts })
    .filter(({ state }) => state === 'trouble')
    .map(({ check, mend }) => ({ check, mend }))
}

const DOWN = { ...WELL_HOST.etcd, trouble: 'connection refused', isAway: true }
const STOPPED = { daemon: undefined, ownDevices: new Set(['flannel0']) }

/** flannel0 of a packet path that has outlived its daemon. */
const OWN_ROUTE = {
  destination: '10.5.0.0/16',
  type: 'unicast',
  protocol: 'kernel',
  metric: 0,
  source: undefined,
  flags: [],
  nextHops: [{ device: 'flannel0', gateway: undefined }],
}

/** Of both families, as Docker leaves a host: forwarded packets are dropped unless a rule takes them. */
const DUAL: Partial<HostFacts> = {
  networks: [parsePrefix('10.5.0.0/16'), parsePrefix('fd00:5::/48')],
  subnet: [parsePrefix('10.5.1.0/24'), parsePrefix('fd00:5:0:1::/64')],
  sysctls: new Map([
    ['net/ipv4/ip_forward', '1'],
    ['net/ipv6/conf/all/forwarding', '1'],
  ]),
  host: {
    links: [
      {
        ...{ index: 7, name: 'docker0', mtu: 1430, up: true, hasCarrier: true },
        ...{ kind: 'bridge', mac: undefined, alias: undefined },
        ...{ vxlan: undefined, ipip: undefined },
        addresses: [
          {
            ...{ family: 6, local: 'fd00:5:0:1::1', prefixLength: 64, scope: 'global' },
            ...{ deprecated: false, temporary: false, dynamic: false, tentative: false },
          },
        ],
      },
    ],
    routes: [],
  },
  daemon: {
    ...WELL_HOST.daemon,
    ...{
      phase: 'ready',
      etcdReachable: true,
      ignoredRecords: [],
      troubles: {},
      notes: {},
    },
    remotes: [
      {
        subnet: '10.5.2.0/24 and fd00:5:0:2::/64',
        devices: ['flannel.1', 'flannel-v6.1'],
        record: { PublicIP: '192.0.2.2', PublicIPv6: null },
      },
    ],
  },
}

const filter = (family: 4 | 6, ...rules: readonly string[]): SavedTable => ({
  program: family === 4 ? 'iptables-nft' : 'ip6tables-nft',
  family,
  text: ['*filter', ':FORWARD DROP [0:0]', ...rules, 'COMMIT'].join('\n'),
})
const ACCEPTED = '-A FORWARD -s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT'
const ACCEPTED6 =
  '-A FORWARD -i flannel-v6.1 -j ACCEPT\n-A FORWARD -o flannel-v6.1 -j ACCEPT'

for (const [name, facts, expected] of [
  [
    'both families let through',
    { ...DUAL, filters: [filter(4, ACCEPTED), filter(6, ACCEPTED6)] },
    [],
  ],
  [
    'IPv6 that is not',
    { ...DUAL, filters: [filter(4, ACCEPTED), filter(6)] },
    [
      {
        check: 'forward-rules',
        mend: 'ip6tables-nft -I FORWARD -s fd00:5::/48 -d fd00:5::/48 -j ACCEPT',
      },
    ],
  ],
  ['one that is well', {}, []],
  [
    'a device with a dot in its name',
    { sysctls: new Map([['net/ipv4/conf/flannel.1/forwarding', '0']]) },
    [{ check: 'forwarding', mend: 'sysctl -w net/ipv4/conf/flannel.1/forwarding=1' }],
  ],
  [
    'IPv6 alone, on a host that forwards no IPv4',
    {
      networks: [parsePrefix('fd00:5::/48')],
      sysctls: new Map([
        ['net/ipv4/ip_forward', '0'],
        ['net/ipv6/conf/all/forwarding', '1'],
      ]),
    },
    [],
  ],
  ['etcd that the daemon reaches, and this command does not', { etcd: DOWN }, []],
  [
    'etcd that refuses us',
    { daemon: undefined, etcd: { ...DOWN, isAway: false } },
    [{ check: 'etcd', mend: null }],
  ],
  [
    'a path that goes on without its daemon',
    { ...STOPPED, subnet: [], host: { links: [], routes: [OWN_ROUTE] } },
    [{ check: 'daemon', mend: 'systemctl start flanneld' }],
  ],
] as const)
  t.test(name, t => {
    t.same(found(facts), expected)
    t.end()
  })

t.test('a check comes after what it depends on', t => {
  for (const [index, { name, after }] of HOST_CHECKS.entries()) {
    const before = HOST_CHECKS.slice(0, index).map(each => each.name)
    t.same(
      after.filter(each => !before.includes(each)),
      [],
      name,
    )
  }
  t.end()
})

void t.test('a kernel without what the backend needs', t => {
  const daemon = undefined
  t.match(found({ daemon, missingModule: 'vxlan' }), [{ check: 'modules' }])
  t.same(found({ missingModule: 'vxlan' }), [], 'a daemon that is ready has its device')
  t.end()
})
