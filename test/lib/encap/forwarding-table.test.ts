import t from 'tap'
import {
  ForwardingTable,
  type NextHop,
  SOCKADDR,
} from '../../../lib/encap/forwarding-table.js'
import { SubnetIndex } from '../../../lib/encap/subnet-index.js'
import { ip, range } from '../../helpers/packets.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceLookup } from '../../reference/forwarding.js'

function index(network: string, ...subnets: string[]): (address: string) => number {
  const built = new SubnetIndex(
    range(network),
    subnets.map((subnet, number) => ({ range: range(subnet), number })),
  )
  return address => built.lookup(ip(address), 0)
}

t.test(
  'an address belongs to the remote whose subnet holds it, to the last address',
  t => {
    const lookup = index('10.5.0.0/16', '10.5.1.0/24', '10.5.2.0/24', '10.5.255.0/24')

    t.equal(lookup('10.5.1.0'), 0)
    t.equal(lookup('10.5.1.255'), 0)
    t.equal(lookup('10.5.2.0'), 1)
    t.equal(lookup('10.5.255.255'), 2)
    const nobodys = ['10.5.0.255', '10.5.3.0', '10.4.255.255', '10.6.0.0', '0.0.0.0']
    for (const nobody of nobodys) t.equal(lookup(nobody), -1, nobody)
    t.end()
  },
)

t.test('an address of IPv6 does too', t => {
  const lookup = index('fd00:5::/48', 'fd00:5:0:1::/64', 'fd00:5:0:ffff::/64')

  t.equal(lookup('fd00:5:0:1::'), 0)
  t.equal(lookup('fd00:5:0:1:ffff:ffff:ffff:ffff'), 0)
  t.equal(lookup('fd00:5:0:ffff::7'), 1)
  for (const nobody of ['fd00:5:0:2::', 'fd00:5:1:1::', 'fd00:4:ffff:1::', '::'])
    t.equal(lookup(nobody), -1, nobody)
  t.equal(index('fd00::/104', 'fd00::ab:0/112')('fd00::ab:1'), 0, 'the last words')
  t.equal(index('fd00::1/128', 'fd00::1/128')('fd00::1'), 0)
  t.end()
})

t.test('where subnets overlap the finer one stands, in whatever order they come', t => {
  const [coarse, fine] = ['10.5.0.0/17', '10.5.7.128/25']
  for (const subnets of [
    [coarse, fine],
    [fine, coarse],
  ]) {
    const lookup = index('10.5.0.0/16', ...subnets)
    t.equal(lookup('10.5.7.200'), subnets.indexOf(fine))
    t.equal(lookup('10.5.7.127'), subnets.indexOf(coarse))
    t.equal(lookup('10.5.128.0'), -1)
  }
  t.end()
})

t.test('a network of one host, of all addresses, and without remotes', t => {
  const single = index('10.5.1.7/32', '10.5.1.7/32')
  t.equal(single('10.5.1.7'), 0)
  t.equal(single('10.5.1.6'), -1)

  t.equal(index('0.0.0.0/0')('1.2.3.4'), -1)
  const halves = index('0.0.0.0/0', '0.0.0.0/1', '128.0.0.0/1')
  t.equal(halves('127.255.255.255'), 0)
  t.equal(halves('255.255.255.255'), 1)
  t.end()
})

t.test('a subnet that lies outside, has host bits, or is too fine is refused', t => {
  t.throws(() => index('10.5.0.0/16', '10.6.1.0/24'), RangeError)
  t.throws(() => index('10.5.0.0/16', '0.0.0.0/0'), RangeError)
  const hostBits = { address: ip('10.5.1.1'), length: 24 }
  t.throws(
    () => new SubnetIndex(range('10.5.0.0/16'), [{ range: hostBits, number: 0 }]),
    RangeError,
  )
  t.throws(
    () => index('10.0.0.0/8', '10.1.0.0/31'),
    new RangeError('a /8 in /31s needs 8388608 slots'),
  )
  t.end()
})

function hop(subnet: string, address: string, sources: string[] = []): NextHop {
  return {
    subnets: [range(subnet)],
    address: ip(address),
    port: 8285,
    sources: sources.map(ip),
    carriesEcn: false,
  }
}

function table(...hops: NextHop[]): ForwardingTable {
  const families = [{ network: range('10.5.0.0/16'), subnet: range('10.5.72.0/24') }]
  return new ForwardingTable({ families, verify: 'strict', copyDscp: false, hops })
}

t.test('only the addresses of its record may send for a remote', t => {
  const found = table(
    hop('10.5.1.0/24', '192.0.2.1', ['198.51.100.1', '2001:db8::1']),
    hop('10.5.2.0/24', '192.0.2.2'),
  )
  const maySend = (number: number, address: string): boolean =>
    found.maySendFrom(number, ip(address), 0, ip(address).length)
  const isKnown = (address: string): boolean =>
    found.isKnownSender(ip(address), 0, ip(address).length)

  t.ok(maySend(0, '192.0.2.1'))
  t.ok(maySend(0, '198.51.100.1'))
  t.ok(maySend(0, '2001:db8::1'))
  t.notOk(maySend(0, '192.0.2.2'))
  t.notOk(maySend(1, '198.51.100.1'))
  t.notOk(maySend(0, '0.0.0.0'), '0.0.0.0 fills unused places and is nobody')
  t.notOk(maySend(0, '::'))
  t.ok(isKnown('198.51.100.1'))
  t.notOk(isKnown('203.0.113.1'))
  t.notOk(isKnown('0.0.0.0'))
  t.end()
})

t.test('each hop has its struct sockaddr at its place', t => {
  const { sockaddrs } = table(
    hop('10.5.9.0/24', '2001:db8::9'),
    hop('10.5.1.0/24', '1.2.3.4'),
  )
  const at = (number: number, length: number): number[] => [
    ...sockaddrs.subarray(number * SOCKADDR, number * SOCKADDR + length),
  ]

  t.same(at(1, 8), [2, 0, 8285 >> 8, 8285 & 0xff, 1, 2, 3, 4])
  t.same(at(0, 12), [10, 0, 8285 >> 8, 8285 & 0xff, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8])
  t.equal(sockaddrs.length, 2 * SOCKADDR)
  t.end()
})

/** An address with its host bits cleared. */
function masked(address: Uint8Array, length: number): Uint8Array {
  return address.map((byte, index) => {
    const bits = Math.max(0, Math.min(8, length - 8 * index))
    return byte & (0xff00 >> bits)
  })
}

/** Networks of every length and either family with up to 2000 subnets, nested and doubled ones among them. */
const network = fc.constantFrom(4, 16).chain(size =>
  fc
    .record({
      base: fc.uint8Array({ minLength: size, maxLength: size }),
      length: fc.nat(size * 8),
      subnets: fc.array(
        fc.record({
          inside: fc.uint8Array({ minLength: size, maxLength: size }),
          finer: fc.nat(12),
        }),
        { maxLength: 2000, size: 'max' },
      ),
    })
    .map(({ base, length, subnets }) => ({
      network: { address: masked(base, length), length },
      subnets: subnets.map(({ inside, finer }) => {
        const subnetLength = Math.min(size * 8, Math.max(1, length + finer))
        const hostBits = masked(new Uint8Array(size).fill(255), length)
        const address = masked(base, length).map(
          (byte, index) => byte | (inside[index]! & ~hostBits[index]! & 0xff),
        )
        return { address: masked(address, subnetLength), length: subnetLength }
      }),
    })),
)

t.test('a lookup equals a linear scan, on any network and any subnets', async t => {
  await holds(
    t,
    fc.property(
      network,
      fc.array(fc.uint8Array({ minLength: 16, maxLength: 16 })),
      (made, random) => {
        const size = made.network.address.length
        const built = new SubnetIndex(
          made.network,
          made.subnets.map((subnet, number) => ({ range: subnet, number })),
        )
        const state = {
          families: [{ network: made.network, subnet: made.network }],
          hops: made.subnets.map(subnet => ({
            ...hop('0.0.0.0/1', '::'),
            subnets: [subnet],
          })),
        }
        const edges = made.subnets.slice(0, 20).flatMap(({ address, length }) => {
          const rest = masked(new Uint8Array(size).fill(255), length)
          const last = address.map((byte, index) => byte | (~rest[index]! & 0xff))
          const before = Uint8Array.from(address)
          before[size - 1]! -= 1
          return [address, last, before]
        })
        return [...random.map(bytes => bytes.subarray(0, size)), ...edges].every(
          address => {
            const slab = Buffer.concat([Buffer.from([1, 2, 3]), address])
            return built.lookup(slab, 3) === (referenceLookup(state, address) ?? -1)
          },
        )
      },
    ),
    { numRuns: 60 },
  )
})
