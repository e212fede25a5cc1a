import t from 'tap'
import { Drop } from '../../../lib/encap/drops.js'
import {
  type ForwardingState,
  ForwardingTable,
  type NextHop,
} from '../../../lib/encap/forwarding-table.js'
import { ip } from '../../helpers/packets.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceLookup } from '../../reference/forwarding.js'

const NETWORK = {
  network: ip('10.5.0.0'),
  networkLength: 16,
  subnet: ip('10.5.72.0'),
  subnetLength: 24,
  verify: 'strict',
} as const

function hop(prefix: string, address = '192.0.2.1', sources: string[] = []): NextHop {
  const [network = '', length] = prefix.split('/')
  return {
    network: ip(network),
    length: Number(length),
    address: ip(address),
    port: 8285,
    sources: sources.map(ip),
  }
}

function table(...hops: NextHop[]): ForwardingTable {
  return new ForwardingTable({ ...NETWORK, hops })
}

t.test(
  'an address belongs to the remote whose subnet holds it, to the last address',
  t => {
    const found = table(hop('10.5.1.0/24'), hop('10.5.2.0/24'), hop('10.5.255.0/24'))

    t.equal(found.lookup(ip('10.5.1.0')), 0)
    t.equal(found.lookup(ip('10.5.1.255')), 0)
    t.equal(found.lookup(ip('10.5.2.0')), 1)
    t.equal(found.lookup(ip('10.5.255.255')), 2)
    for (const nobody of [
      '10.5.0.255',
      '10.5.3.0',
      '10.4.255.255',
      '10.6.0.0',
      '0.0.0.0',
    ]) {
      t.equal(found.lookup(ip(nobody)), -Drop.noRoute, nobody)
    }
    t.end()
  },
)

t.test('where subnets overlap the finer one stands, in whatever order they come', t => {
  const coarse = hop('10.5.0.0/17')
  const fine = hop('10.5.7.128/25')
  for (const hops of [
    [coarse, fine],
    [fine, coarse],
  ]) {
    const found = table(...hops)
    t.equal(found.lookup(ip('10.5.7.200')), hops.indexOf(fine))
    t.equal(found.lookup(ip('10.5.7.127')), hops.indexOf(coarse))
    t.equal(found.lookup(ip('10.5.128.0')), -Drop.noRoute)
  }
  t.end()
})

t.test('a network of one host, of all addresses, and without remotes', t => {
  const single = new ForwardingTable({
    ...NETWORK,
    network: ip('10.5.1.7'),
    networkLength: 32,
    hops: [hop('10.5.1.7/32')],
  })
  t.equal(single.lookup(ip('10.5.1.7')), 0)
  t.equal(single.lookup(ip('10.5.1.6')), -Drop.noRoute)

  const all = { ...NETWORK, network: 0, networkLength: 0 }
  t.equal(new ForwardingTable({ ...all, hops: [] }).lookup(ip('1.2.3.4')), -Drop.noRoute)
  const halves = new ForwardingTable({
    ...all,
    hops: [hop('0.0.0.0/1'), hop('128.0.0.0/1')],
  })
  t.equal(halves.lookup(ip('127.255.255.255')), 0)
  t.equal(halves.lookup(ip('255.255.255.255')), 1)
  t.end()
})

t.test('a hop that lies outside, has host bits, or is too fine is refused', t => {
  t.throws(() => table(hop('10.6.1.0/24')), RangeError)
  t.throws(() => table(hop('0.0.0.0/0')), RangeError)
  t.throws(() => table(hop('10.5.1.1/24')), RangeError)
  const wide = { ...NETWORK, network: ip('10.0.0.0'), networkLength: 8 }
  t.throws(
    () => new ForwardingTable({ ...wide, hops: [hop('10.1.0.0/31')] }),
    new RangeError('a /8 in /31s needs 8388608 slots'),
  )
  t.end()
})

t.test('only the addresses of its record may send for a remote', t => {
  const found = table(
    hop('10.5.1.0/24', '192.0.2.1', ['198.51.100.1', '198.51.100.2']),
    hop('10.5.2.0/24', '192.0.2.2'),
  )

  t.ok(found.maySendFrom(0, ip('192.0.2.1')))
  t.ok(found.maySendFrom(0, ip('198.51.100.2')))
  t.notOk(found.maySendFrom(0, ip('192.0.2.2')))
  t.notOk(found.maySendFrom(1, ip('198.51.100.1')))
  t.notOk(found.maySendFrom(0, 0), '0.0.0.0 fills unused places and is nobody')
  t.ok(found.isKnownSender(ip('198.51.100.1')))
  t.notOk(found.isKnownSender(ip('203.0.113.1')))
  t.notOk(found.isKnownSender(0))
  t.end()
})

t.test('each hop has its struct sockaddr_in at its place', t => {
  const { sockaddrs } = table(
    hop('10.5.9.0/24', '192.0.2.9'),
    hop('10.5.1.0/24', '1.2.3.4'),
  )

  t.same([...sockaddrs.subarray(16, 24)], [2, 0, 8285 >> 8, 8285 & 0xff, 1, 2, 3, 4])
  t.equal(sockaddrs.length, 32)
  t.end()
})

const uint32 = fc.integer({ min: 0, max: 0xffffffff })

function masked(address: number, length: number): number {
  const size = 2 ** (32 - length)
  return Math.floor(address / size) * size
}

/** Networks of every length with up to 5000 subnets, nested and doubled ones among them. */
const forwardingState: fc.Arbitrary<ForwardingState> = fc
  .record({ base: uint32, networkLength: fc.integer({ min: 0, max: 32 }) })
  .chain(({ base, networkLength }) => {
    const network = masked(base, networkLength)
    const hops = fc.array(
      fc.record({
        offset: uint32,
        length: fc.integer({ min: 0, max: 12 }),
        address: uint32,
      }),
      { maxLength: 5000, size: 'max' },
    )
    return hops.map(list => ({
      ...NETWORK,
      network,
      networkLength,
      hops: list.map(({ offset, length, address }) => {
        const hopLength = Math.min(32, Math.max(1, networkLength + length))
        const inside = network + (offset % 2 ** (32 - networkLength))
        return {
          network: masked(inside, hopLength),
          length: hopLength,
          address,
          port: 8285,
          sources: [],
        }
      }),
    }))
  })

t.test('a lookup equals a linear scan, on any network and any subnets', async t => {
  await holds(
    t,
    fc.property(forwardingState, fc.array(uint32, { maxLength: 20 }), (state, random) => {
      const built = new ForwardingTable(state)
      const edges = state.hops
        .slice(0, 20)
        .flatMap(({ network, length }) => [network, network + 2 ** (32 - length) - 1])
        .flatMap(edge => [edge - 1, edge, edge + 1])
        .filter(address => address >= 0 && address <= 0xffffffff)
      for (const address of [...random, ...edges]) {
        const expected = referenceLookup(state, address) ?? -Drop.noRoute
        if (built.lookup(address) !== expected) return false
      }
      return true
    }),
    { numRuns: 60 },
  )
})
