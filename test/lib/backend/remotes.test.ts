import t from 'tap'
import { RemoteSelector } from '../../../lib/backend/remotes.js'
import { parseNetworkConfig } from '../../../lib/subnet/network-config.js'
import { formatPrefix, parsePrefix } from '../../../lib/subnet/prefix.js'
import {
  type Subnet,
  formatSubnet,
  parseSubnetKey,
  subnetsOverlap,
} from '../../../lib/subnet/subnet-key.js'
import { fc, holds } from '../../helpers/property.js'
import {
  type SubnetRecord,
  parseSubnetRecord,
} from '../../../lib/subnet/subnet-record.js'

function record(
  name: string,
  holder: object = { PublicIP: '192.0.2.9' },
  createRevision = 1n,
): SubnetRecord {
  return parseSubnetRecord({
    key: `/coreos.com/network/subnets/${name}`,
    value: JSON.stringify(holder),
    createRevision,
    modRevision: createRevision,
    leaseId: '1',
  })
}

const CONFIG = parseNetworkConfig('{"Network":"10.0.0.0/8","SubnetLen":24}')
const OWN = {
  key: '/coreos.com/network/subnets/10.5.72.0-24',
  subnet: parseSubnetKey('10.5.72.0-24'),
}

/** What is taken, and why the rest is not. */
function select(records: readonly SubnetRecord[], leaseType = ''): string[] {
  const { remotes, rejected } = new RemoteSelector(OWN, CONFIG, leaseType).select(records)
  return [
    ...remotes.map(remote => formatSubnet(remote.subnet)),
    ...rejected.map(({ why }) => why),
  ]
}

t.test('every record but ours is a remote, whatever SubnetLen it was made under', t => {
  const records = [record('10.5.72.0-24'), record('10.5.1.0-24'), record('10.9.0.0-20')]
  t.strictSame(select(records), ['10.5.1.0/24', '10.9.0.0/20'])
  t.end()
})

t.test(
  'a record that cannot be routed is told with the reason, and the others are taken',
  t => {
    t.strictSame(
      select([
        record('172.16.1.0-24'),
        record('10.5.72.128-25'),
        record('10.4.0.0-15'),
        record('10.0.0.0-8'),
        record('10.6.0.0-31'),
        record('10.5.2.0-24'),
      ]),
      [
        '10.5.2.0/24',
        'subnet 172.16.1.0/24 lies outside the network',
        'subnet 10.5.72.128/25 overlaps ours',
        'subnet 10.4.0.0/15 overlaps ours',
        'subnet 10.0.0.0/8 overlaps ours',
        'subnet 10.6.0.0/31 is too small',
      ],
    )
    t.end()
  },
)

t.test('of subnets that overlap, the host that was there before keeps its own', t => {
  const at = (name: string, revision: bigint, host = Number(revision)): SubnetRecord =>
    record(name, { PublicIP: `192.0.2.${host}` }, revision)
  const late = (name: string): string =>
    `subnet ${name} overlaps that of another host, which had it before`
  t.strictSame(
    select([
      at('10.6.0.0-16', 9n),
      at('10.6.1.0-24', 2n),
      at('10.6.1.128-25', 5n),
      at('10.7.0.0-20', 3n),
      at('10.7.3.0-24', 4n),
      at('10.8.1.0-24', 6n),
    ]),
    [
      '10.6.1.0/24',
      '10.7.0.0/20',
      '10.8.1.0/24',
      late('10.7.3.0/24'),
      late('10.6.1.128/25'),
      late('10.6.0.0/16'),
    ],
  )
  t.strictSame(select([at('10.6.1.0-24', 9n), at('10.6.1.128-25', 5n)]), [
    '10.6.1.128/25',
    late('10.6.1.0/24'),
  ])
  t.strictSame(
    select([at('10.6.1.0-24', 5n, 7), at('10.6.0.0-23', 9n, 7)]),
    ['10.6.1.0/24', '10.6.0.0/23'],
    'both of one host',
  )
  t.end()
})

t.test('a record that was lost and put back is as old as before', t => {
  const of = (name: string, host: number, revision: bigint): SubnetRecord =>
    record(name, { PublicIP: `192.0.2.${host}` }, revision)
  const selector = new RemoteSelector(OWN, CONFIG, '')
  const names = (records: readonly SubnetRecord[]): string[] =>
    selector.select(records).remotes.map(({ subnet }) => formatSubnet(subnet))
  const stray = of('10.6.1.128-25', 9, 5n)
  t.strictSame(names([of('10.6.1.0-24', 7, 2n), stray]), ['10.6.1.0/24'])
  t.strictSame(names([stray]), ['10.6.1.128/25'], 'while it is away')
  t.strictSame(names([of('10.6.1.0-24', 7, 8n), stray]), ['10.6.1.0/24'], 'it is back')
  t.strictSame(
    names([of('10.6.1.0-24', 8, 9n), stray]),
    ['10.6.1.128/25'],
    'another host',
  )
  t.end()
})

t.test('overlaps are found as one after the other finds them', async t => {
  const prefix = fc.tuple(
    fc.integer({ min: 0, max: 15 }),
    fc.integer({ min: 20, max: 26 }),
  )
  const property = fc.property(fc.array(prefix, { maxLength: 12 }), pairs => {
    const names = pairs.map(([index, length]) =>
      formatPrefix(parsePrefix(`10.6.${index}.${index * 16}/${length}`)).replace(
        '/',
        '-',
      ),
    )
    const records = [...new Set(names)].map((name, index) =>
      record(name, { PublicIP: `192.0.2.${index + 1}` }, BigInt(index + 1)),
    )
    const kept: SubnetRecord[] = []
    for (const each of records)
      if (!kept.some(other => subnetsOverlap(other.subnet, each.subnet))) kept.push(each)
    const { remotes } = new RemoteSelector(OWN, CONFIG, '').select(records)
    const named = (subnets: readonly { subnet: Subnet }[]): string =>
      subnets.map(({ subnet }) => formatSubnet(subnet)).join()
    return named(remotes) === named(kept)
  })
  await holds(t, property)
})

t.test('a record that has not changed is the same remote, whatever else has', t => {
  const selector = new RemoteSelector(OWN, CONFIG, '')
  const [one, two] = [record('10.5.1.0-24'), record('10.5.2.0-24')]

  const [first] = selector.select([one]).remotes
  const later = selector.select([two, one]).remotes

  t.equal(later[1], first)
  t.equal(selector.select([record('10.5.1.0-24')]).remotes.includes(first!), false)
  t.end()
})

t.test('a subnet that is kept for a host that is not there is nothing to tell', t => {
  t.strictSame(select([record('10.5.1.0-24', { PublicIP: '0.0.0.0', HostID: 'x' })]), [])
  t.end()
})

t.test('a record of another backend is told with both types', t => {
  const vxlan = record('10.5.1.0-24', { PublicIP: '192.0.2.9', BackendType: 'vxlan' })
  t.strictSame(select([vxlan]), ['its backend is vxlan, ours is udp'])
  t.strictSame(select([vxlan], 'vxlan'), ['10.5.1.0/24'])
  t.strictSame(select([record('10.5.1.0-24')], 'vxlan'), [
    'its backend is udp, ours is vxlan',
  ])
  t.end()
})
