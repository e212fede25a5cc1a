import t from 'tap'
import {
  type LeaseState,
  leaseEvents,
  leaseState,
} from '../../../cmd/flannelctl/lease-events.js'

const state = (key: string, value: object | string, lease = true): LeaseState =>
  leaseState({
    key: `/net/subnets/${key}`,
    value: typeof value === 'string' ? value : JSON.stringify(value),
    createRevision: 1n,
    modRevision: 2n,
    ...(lease && { leaseId: '7' }),
  })

const HOST = { PublicIP: '192.0.2.2', PublicIPv6: null, HostID: 'db-1' }

t.test('a record is told in the words of an operator', t => {
  t.strictSame(state('10.5.2.0-24', HOST), {
    subnet: '10.5.2.0/24',
    holder: '192.0.2.2, host db-1, udp',
  })
  t.match(state('10.5.2.0-24', { PublicIP: '192.0.2.2', BackendType: 'vxlan' }, false), {
    holder: '192.0.2.2, vxlan, reserved',
  })
  t.match(state('garbage', HOST), { key: '/net/subnets/garbage' })
  t.match(state('10.5.2.0-24', 'no JSON'), { why: String })
  t.end()
})

t.test('what comes, changes and goes is told once', t => {
  const a = state('10.5.1.0-24', HOST)
  const moved = state('10.5.1.0-24', { ...HOST, PublicIP: '192.0.2.9' })
  const b = state('10.5.2.0-24', HOST)
  const bad = state('10.5.2.0-24', '{')
  const of = (...pairs: [string, LeaseState][]): ReadonlyMap<string, LeaseState> =>
    new Map(pairs)
  const told = (...args: Parameters<typeof leaseEvents>): string[] =>
    leaseEvents(...args).map(event => event.what)
  t.strictSame(told(of(), of(['1', a], ['2', b])), ['joined', 'joined'])
  t.strictSame(told(of(['1', a]), of(['1', moved], ['2', b])), ['changed', 'joined'])
  t.strictSame(told(of(['1', a], ['2', b]), of(['2', b])), ['left'])
  t.strictSame(told(of(['2', b]), of(['2', bad])), ['unreadable'])
  t.strictSame(told(of(['2', bad]), of(['2', bad])), [])
  t.strictSame(told(of(['2', bad]), of(['2', b])), ['joined'])
  t.strictSame(told(of(['2', bad]), of()), [])
  t.end()
})
