import type { HostFacts } from '../../lib/diagnosis/host-facts.js'
import { parsePrefix } from '../../lib/subnet/prefix.js'

/** A host that nothing is wrong with. */
export const WELL_HOST: HostFacts = {
  isRoot: true,
  daemon: {
    phase: 'ready',
    etcdReachable: true,
    ignoredRecords: [],
    troubles: {},
    notes: {},
    backend: { type: 'vxlan', device: 'flannel.1' },
  },
  networks: [parsePrefix('10.5.0.0/16')],
  subnet: [parsePrefix('10.5.1.0/24')],
  host: { links: [], routes: [] },
  ownDevices: new Set(['flannel.1']),
  publicIp: undefined,
  missingModule: undefined,
  overlaps: [],
  sysctls: new Map(),
  etcd: {
    endpoints: ['http://192.0.2.1:2379'],
    trouble: undefined,
    isAway: false,
    aheadMs: 0,
  },
  ways: new Map(),
  filters: [],
  rival: undefined,
}
