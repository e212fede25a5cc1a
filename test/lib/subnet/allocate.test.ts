import t from 'tap'
import { pickSubnet } from '../../../lib/subnet/allocate.js'
import {
  type FamilyConfig,
  isSubnetOf,
  parseNetworkConfig,
  subnetCount,
} from '../../../lib/subnet/network-config.js'
import {
  type Family,
  type Prefix,
  formatPrefix,
  networkMask,
  overlaps,
  parsePrefix,
  prefixSize,
  samePrefix,
} from '../../../lib/subnet/prefix.js'
import { fc, holds } from '../../helpers/property.js'
import { anyFamily, prefixOf } from '../../helpers/subnet-arbitraries.js'
import { freeSubnets } from '../../reference/free-subnets.js'

const small = parseNetworkConfig(
  '{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0"}',
).families[0]!

/** A network of up to 64 subnets, of which a part is in use. */
function networkOf(family: Family): fc.Arbitrary<FamilyConfig> {
  const bits = family === 4 ? 32 : 128
  return fc
    .integer({ min: 2, max: 6 })
    .chain(width =>
      fc.record({
        network: prefixOf(family, { shortest: 1, longest: bits - width - 1 }),
        width: fc.constant(width),
        limits: fc.tuple(
          fc.nat({ max: 2 ** width - 1 }),
          fc.nat({ max: 2 ** width - 1 }),
        ),
      }),
    )
    .map(({ network, width, limits }) => {
      const subnetLength = network.length + width
      const size = prefixSize({ family, length: subnetLength })
      const at = (index: number): bigint => network.network + BigInt(index) * size
      return {
        network,
        subnetLength,
        subnetMin: at(Math.min(...limits)),
        subnetMax: at(Math.max(...limits)),
      }
    })
}

/** Prefixes inside the network and around it, longer and shorter than its subnets. */
function takenIn({ network, subnetLength }: FamilyConfig): fc.Arbitrary<Prefix[]> {
  const { family } = network
  const hostMask = prefixSize(network) - 1n
  const inside = prefixOf(family, {
    shortest: network.length + 1,
    longest: Math.min(subnetLength + 2, family === 4 ? 32 : 128),
  }).map(prefix => ({
    ...prefix,
    network: network.network | (prefix.network & hostMask),
  }))
  const around = fc.integer({ min: 0, max: network.length }).map(length => ({
    family,
    network: network.network & networkMask(family, length),
    length,
  }))
  return fc.array(
    fc.oneof({ weight: 30, arbitrary: inside }, prefixOf(family), {
      weight: 1,
      arbitrary: around,
    }),
    { maxLength: 80 },
  )
}

const situation = anyFamily.chain(networkOf).chain(config =>
  fc.record({
    config: fc.constant(config),
    taken: takenIn(config),
    hostId: fc.string({ maxLength: 20 }),
  }),
)

t.test('the pick is free, and there is one as long as one is free', async t => {
  await holds(
    t,
    fc.property(situation, ({ config, taken, hostId }) => {
      const picked = pickSubnet(config, { taken, used: [], preferred: undefined, hostId })
      const free = freeSubnets(config, taken)
      if (picked === undefined) return free.length === 0
      return (
        isSubnetOf(config, picked) &&
        !taken.some(other => overlaps(other, picked)) &&
        free.some(subnet => samePrefix(subnet, picked))
      )
    }),
    { numRuns: 2000 },
  )
})

t.test('a host looks from its own place on, around the end', async t => {
  await holds(
    t,
    fc.property(situation, ({ config, taken, hostId }) => {
      const start = pickSubnet(config, {
        taken: [],
        used: [],
        preferred: undefined,
        hostId,
      })!.network
      const free = freeSubnets(config, taken)
      const expected = free.find(({ network }) => network >= start) ?? free[0]
      return samePrefix(
        pickSubnet(config, { taken, used: [], preferred: undefined, hostId }),
        expected,
      )
    }),
    { numRuns: 2000 },
  )
})

t.test('the preferred subnet is taken exactly when it is free', async t => {
  await holds(
    t,
    fc.property(situation, fc.nat(), ({ config, taken, hostId }, index) => {
      const all = freeSubnets(config, [])
      const preferred = all[index % all.length]!
      const picked = pickSubnet(config, { taken, used: [], preferred, hostId })
      return taken.some(other => overlaps(other, preferred))
        ? !samePrefix(picked, preferred)
        : samePrefix(picked, preferred)
    }),
    { numRuns: 1000 },
  )
})

t.test('one after the other, every subnet is handed out once', t => {
  const config = parseNetworkConfig('{"Network":"10.3.0.0/16"}').families[0]!
  const taken: Prefix[] = []
  for (let host = 0; host < 255; host++) {
    const picked = pickSubnet(config, {
      taken,
      used: [],
      preferred: undefined,
      hostId: `host-${host}`,
    })
    if (picked !== undefined) taken.push(picked)
  }

  t.equal(new Set(taken.map(formatPrefix)).size, 255)
  t.equal(
    pickSubnet(config, { taken, used: [], preferred: undefined, hostId: 'late' }),
    undefined,
  )
  t.end()
})

t.test('a shorter prefix blocks all that lie in it, a longer one its own', t => {
  const names = (...taken: string[]) =>
    freeSubnets(small, taken.map(parsePrefix)).map(formatPrefix)
  t.strictSame(names('10.3.6.0/23'), ['10.3.5.0/24', '10.3.8.0/24'])

  const picked = (...taken: string[]) => {
    const subnet = pickSubnet(small, {
      taken: taken.map(parsePrefix),
      used: [],
      preferred: undefined,
      hostId: 'x',
    })
    return subnet && formatPrefix(subnet)
  }
  t.equal(picked('10.3.6.0/23', '10.3.8.0/22'), '10.3.5.0/24')
  t.equal(picked('10.3.5.9/32', '10.3.6.0/23', '10.3.8.255/32'), undefined)
  t.equal(picked('10.3.0.0/16'), undefined)
  t.equal(picked('0.0.0.0/0'), undefined)
  t.end()
})

t.test('hosts that start together rarely want the same subnet', t => {
  const config = parseNetworkConfig('{"Network":"10.0.0.0/8"}').families[0]!
  const wanted = Array.from({ length: 50 }, (_, host) =>
    formatPrefix(
      pickSubnet(config, {
        taken: [],
        used: [],
        preferred: undefined,
        hostId: `host-${host}`,
      })!,
    ),
  )
  t.ok(new Set(wanted).size >= 48)
  t.end()
})

t.test('an IPv6 network of 2^64 subnets is no work', t => {
  const config = parseNetworkConfig(
    '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":112}',
  ).families[0]!
  t.equal(subnetCount(config), 2n ** 64n - 1n)
  const half = parsePrefix('fc00::/49')
  const picked = pickSubnet(config, {
    taken: [half],
    used: [],
    preferred: undefined,
    hostId: 'x',
  })!
  t.equal(overlaps(half, picked), false)
  t.equal(isSubnetOf(config, picked), true)
  t.end()
})
