import t from 'tap'
import { runChecks } from '../../../lib/diagnosis/check.js'
import { PATH_CHECKS } from '../../../lib/diagnosis/path-checks.js'
import type { PathFacts } from '../../../lib/diagnosis/path-facts.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { WELL_HOST } from '../../helpers/host-facts.js'

const MAC = '02:00:00:00:00:02'

const REMOTE = {
  subnet: '10.5.2.0/24',
  device: 'flannel.1',
  record: { PublicIP: '192.0.2.2', BackendData: { VNI: 1, VtepMAC: MAC.toUpperCase() } },
}

const WELL: PathFacts = {
  ...WELL_HOST,
  daemon: WELL_HOST.daemon && { ...WELL_HOST.daemon, remotes: [REMOTE] },
  here: parseAddress('10.5.1.2'),
  there: parseAddress('10.5.2.3'),
  silent: [],
  remote: REMOTE,
  way: { device: 'flannel.1', gateway: '10.5.2.0' },
  vxlan: {
    neighbours: [{ address: '10.5.2.0', mac: MAC }],
    fdb: [{ mac: MAC, destination: '192.0.2.2' }],
  },
  measured: undefined,
  natTables: [],
}

/** What is found on a way that differs from one that is well. */
function found(facts: Partial<PathFacts>): object[] {
  return runChecks(PATH_CHECKS, { ...WELL, ...facts })
    .filter(({ state }) => state === 'trouble')
    .map(({ check, what, mend }) => ({ check, what, mend }))
}

void t.test('a way that is well', t => {
  t.same(found({}), [])
  t.end()
})

void t.test('what the VXLAN device has to know', t => {
  const { vxlan } = WELL
  t.same(found({ vxlan: { neighbours: [], fdb: vxlan?.fdb ?? [] } }), [
    {
      check: 'neighbour',
      what: `flannel.1 does not know that 10.5.2.0 is at ${MAC}`,
      mend: `ip neigh replace 10.5.2.0 lladdr ${MAC} nud permanent dev flannel.1`,
    },
  ])
  const fdb = [{ mac: MAC, destination: '192.0.2.9' }]
  t.match(found({ vxlan: { neighbours: vxlan?.neighbours ?? [], fdb } }), [
    {
      check: 'neighbour',
      mend: `bridge fdb replace ${MAC} dev flannel.1 dst 192.0.2.2 self permanent`,
    },
  ])
  const way = { device: 'eth0', gateway: '192.0.2.2' }
  const direct = { ...REMOTE, device: 'eth0' }
  t.same(found({ way, remote: direct, vxlan: undefined }), [], 'DirectRouting')
  t.end()
})

void t.test('a way that the kernel does not take', t => {
  const route = {
    destination: '10.5.2.0/25',
    type: 'blackhole',
    protocol: 'static',
    metric: 0,
    source: undefined,
    flags: [],
    nextHops: [],
  }
  const host = { links: [], routes: [route] }
  t.match(found({ way: undefined, host }), [
    { check: 'route', mend: 'ip route delete blackhole 10.5.2.0/25' },
  ])
  t.match(found({ way: undefined }), [
    { check: 'route', mend: 'systemctl restart flanneld' },
  ])
  const right = {
    ...route,
    type: 'unicast',
    nextHops: [{ device: 'flannel.1', gateway: undefined }],
  }
  const way = { device: 'wg0', gateway: undefined }
  t.match(
    found({ way, host: { links: [], routes: [right] } }),
    [{ check: 'route', what: /leave by wg0 instead of flannel\.1: a rule of ip rule/ }],
    'a rule for which no command is made up',
  )
  t.end()
})

void t.test('a record that cannot be used', t => {
  const { daemon } = WELL
  const key = '/coreos.com/network/subnets/10.5.2.0-24'
  t.match(
    found({
      remote: undefined,
      daemon: daemon && { ...daemon, ignoredRecords: [{ key, why: 'no VtepMAC' }] },
    }),
    [{ check: 'remote-lease', what: /cannot be used: no VtepMAC/ }],
  )
  t.match(
    found({ remote: undefined, daemon: daemon && { ...daemon, etcdReachable: false } }),
    [{ check: 'remote-lease', what: /as far as this host knows: etcd does not answer/ }],
  )
  t.end()
})

void t.test('two containers of one host', t => {
  const there = parseAddress('10.5.1.3')
  t.same(found({ there, remote: undefined, way: undefined }), [])
  t.match(found({ there, remote: undefined, silent: [there] }), [{ check: 'container' }])
  t.end()
})
