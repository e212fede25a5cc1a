import t from 'tap'
import { runChecks } from '../../../lib/diagnosis/check.js'
import { HOST_CHECKS } from '../../../lib/diagnosis/host-checks.js'
import type { HostFacts } from '../../../lib/diagnosis/host-facts.js'
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

for (const [name, facts, expected] of [
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
