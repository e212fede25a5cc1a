import t, { type Test } from 'tap'
import { lookUp, unknownKeys } from '../../../lib/subnet/go-json.js'
import {
  familyConfig,
  formatNetworkConfig,
  hostBits,
  isSubnetOf,
  option,
  parseNetworkConfig,
  subnetCount,
} from '../../../lib/subnet/network-config.js'
import { formatAddress, formatPrefix, parsePrefix } from '../../../lib/subnet/prefix.js'
import { fc, holds } from '../../helpers/property.js'

/** What a configuration means for the hosts: `network length min max`, a line per family. */
function meaning(object: unknown): string[] {
  return parseNetworkConfig(JSON.stringify(object)).families.map(
    ({ network, subnetLength, subnetMin, subnetMax }) => {
      const { family } = network
      const min = formatAddress({ family, value: subnetMin })
      const max = formatAddress({ family, value: subnetMax })
      return `${formatPrefix(network)} ${subnetLength} ${min} ${max}`
    },
  )
}

function refuses(t: Test, text: string, message: string): void {
  t.throws(
    () => parseNetworkConfig(text),
    { code: 'ERR_SUBNET_CONFIG', message: `network configuration: ${message}` },
    text,
  )
}

t.test('what is left open is worked out as flannel does', t => {
  const golden: readonly [network: string, meaning: string][] = [
    ['10.3.0.0/16', '10.3.0.0/16 24 10.3.1.0 10.3.255.0'],
    ['10.3.9.9/16', '10.3.0.0/16 24 10.3.1.0 10.3.255.0'],
    ['10.0.0.0/8', '10.0.0.0/8 24 10.0.1.0 10.255.255.0'],
    ['8.0.0.0/7', '8.0.0.0/7 24 8.0.1.0 9.255.255.0'],
    ['10.3.0.0/22', '10.3.0.0/22 24 10.3.1.0 10.3.3.0'],
    ['10.3.0.0/23', '10.3.0.0/23 25 10.3.0.128 10.3.1.128'],
    ['10.3.0.0/24', '10.3.0.0/24 26 10.3.0.64 10.3.0.192'],
    ['10.3.0.0/28', '10.3.0.0/28 30 10.3.0.4 10.3.0.12'],
  ]
  for (const [network, expected] of golden) {
    t.strictSame(meaning({ Network: network }), [expected])
  }
  const golden6: readonly [network: string, meaning: string][] = [
    ['fc00::/48', 'fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::'],
    ['fc00::/62', 'fc00::/62 64 fc00:0:0:1:: fc00:0:0:3::'],
    ['fc00::/63', 'fc00::/63 65 fc00::8000:0:0:0 fc00:0:0:1:8000::'],
    ['fc00::/124', 'fc00::/124 126 fc00::4 fc00::c'],
  ]
  for (const [network, expected] of golden6) {
    const only6 = { EnableIPv4: false, EnableIPv6: true, IPv6Network: network }
    t.strictSame(meaning(only6), [expected])
  }
  t.end()
})

t.test('given values are taken', t => {
  const given = {
    Network: '10.3.0.0/16',
    SubnetLen: 28,
    SubnetMin: '10.3.5.0',
    SubnetMax: '10.3.8.0',
  }
  t.strictSame(meaning(given), ['10.3.0.0/16 28 10.3.5.0 10.3.8.0'])
  t.strictSame(meaning({ ...given, SubnetLen: 0, SubnetMin: '0.0.0.0', SubnetMax: '' }), [
    '10.3.0.0/16 24 10.3.1.0 10.3.255.0',
  ])
  t.strictSame(meaning({ Network: '10.3.0.0/16', SubnetMin: '10.3.0.0' }), [
    '10.3.0.0/16 24 10.3.0.0 10.3.255.0',
  ])
  t.end()
})

t.test('dual stack has IPv4 first, each family with its own rules', t => {
  const dual = { Network: '10.3.0.0/16', EnableIPv6: true, IPv6Network: 'fc00::/48' }
  t.strictSame(meaning(dual), [
    '10.3.0.0/16 24 10.3.1.0 10.3.255.0',
    'fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::',
  ])
  const limited = {
    ...dual,
    IPv6SubnetLen: 80,
    IPv6SubnetMin: 'fc00::1:0:0:0',
    IPv6SubnetMax: 'fc00::2:0:0:0',
  }
  t.equal(meaning(limited)[1], 'fc00::/48 80 fc00::1:0:0:0 fc00::2:0:0:0')
  const config = parseNetworkConfig(JSON.stringify(dual))
  t.equal(familyConfig(config, 6)?.subnetLength, 64)
  t.equal(familyConfig(config, 6) && hostBits(familyConfig(config, 6)!), 64)
  t.equal(meaning({ ...dual, EnableIPv6: false }).length, 1)
  t.end()
})

t.test('keys may be in any case, as for Go', t => {
  t.strictSame(meaning({ network: '10.3.0.0/16', SUBNETLEN: 25 }), [
    '10.3.0.0/16 25 10.3.0.128 10.3.255.128',
  ])
  const config = parseNetworkConfig(
    '{"network":"10.3.0.0/16","enablenftables":true,"BACKEND":{"type":"VXLAN","vni":7,"Port":8472}}',
  )
  t.equal(config.enableNfTables, true)
  t.equal(config.backend.type, 'vxlan')
  t.equal(option(config.backend.options, 'VNI'), 7)
  t.equal(option(config.backend.options, 'port'), 8472)
  t.strictSame(config.unknownKeys, [])
  t.end()
})

t.test('without a backend it is udp; with one that has no type it is none', t => {
  const backend = (given: object) =>
    parseNetworkConfig(JSON.stringify({ Network: '10.3.0.0/16', ...given })).backend

  t.strictSame(backend({}), { type: 'udp', options: {} })
  t.strictSame(backend({ Backend: null }), { type: 'udp', options: {} })
  t.equal(backend({ Backend: {} }).type, '')
  t.equal(backend({ Backend: { Type: 'Host-GW' } }).type, 'host-gw')
  t.end()
})

t.test('the operator reads what was worked out and which keys nobody knows', t => {
  const config = parseNetworkConfig(
    '{"Network":"10.3.0.0/23","Netwrok":"x","SubnetMax":"10.3.1.0"}',
  )

  t.strictSame(config.unknownKeys, ['Netwrok'])
  t.strictSame(config.derived, [
    'SubnetLen is 25: Network is /23, so each host gets a /25',
    'SubnetMin is 10.3.0.128: the first subnet of a network is never used',
    'Backend.Type is udp: the configuration names none',
  ])
  t.end()
})

t.test("flannel's errors have flannel's words", t => {
  const small = (object: object) => JSON.stringify({ Network: '10.3.0.0/16', ...object })
  const six = (object: object) =>
    JSON.stringify({
      EnableIPv4: false,
      EnableIPv6: true,
      IPv6Network: 'fc00::/48',
      ...object,
    })
  const cases: readonly [text: string, message: string][] = [
    ['{}', 'please define a correct Network parameter in the flannel config'],
    ['{"Network":""}', 'please define a correct Network parameter in the flannel config'],
    [small({ SubnetLen: 31 }), 'SubnetLen must be less than /31'],
    [
      small({ SubnetLen: 17 }),
      'network must be able to accommodate at least four subnets',
    ],
    [
      small({ Network: '10.3.0.0/29' }),
      'network is too small. Minimum useful network prefix is /28',
    ],
    [small({ SubnetMin: '10.4.0.0' }), 'SubnetMin is not in the range of the Network'],
    [small({ SubnetMax: '10.4.0.0' }), 'SubnetMax is not in the range of the Network'],
    [
      small({ SubnetMin: '10.3.1.1' }),
      'SubnetMin is not on a SubnetLen boundary: 10.3.1.1',
    ],
    [
      small({ SubnetMax: '10.3.9.128' }),
      'SubnetMax is not on a SubnetLen boundary: 10.3.9.128',
    ],
    [
      six({ IPv6Network: null }),
      'please define a correct IPv6Network parameter in the flannel config',
    ],
    [six({ IPv6SubnetLen: 127 }), 'SubnetLen must be less than /127'],
    [
      six({ IPv6SubnetLen: 49 }),
      'network must be able to accommodate at least four subnets',
    ],
    [
      six({ IPv6Network: 'fc00::/125' }),
      'IPv6Network is too small. Minimum useful network prefix is /124',
    ],
    [
      six({ IPv6SubnetMin: 'fd00::' }),
      'IPv6SubnetMin is not in the range of the IPv6Network',
    ],
    [
      six({ IPv6SubnetMax: 'fc00::5' }),
      'IPv6SubnetMax is not on a SubnetLen boundary: fc00::5',
    ],
  ]
  for (const [text, message] of cases) refuses(t, text, message)
  t.end()
})

t.test('what flannel does not check is refused with a reason', t => {
  refuses(
    t,
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}',
    'SubnetMin lies behind SubnetMax: 10.3.9.0 > 10.3.8.0',
  )
  refuses(
    t,
    '{"EnableIPv4":false}',
    'none defined stack: EnableIPv4 and EnableIPv6 are both false; enable one',
  )
  refuses(t, '{"Network":"fc00::/48"}', 'Network is "fc00::/48": it is not an IPv4 range')
  refuses(t, '{"Network":7}', 'Network is 7: it is not a string')
  refuses(
    t,
    '{"Network":"10.3.0.0"}',
    'Network is "10.3.0.0": "10.3.0.0" is not an address range such as 10.5.0.0/16',
  )
  for (const length of ['"24"', '-1', '24.5', '1e999', '[24]']) {
    t.throws(
      () => parseNetworkConfig(`{"Network":"10.3.0.0/16","SubnetLen":${length}}`),
      { message: /^network configuration: SubnetLen is .*; it must be a whole number/ },
      length,
    )
  }
  refuses(
    t,
    '{"Network":"10.3.0.0/16","SubnetMin":5}',
    'SubnetMin is 5: it is not a string',
  )
  refuses(
    t,
    '{"Network":"10.3.0.0/16","EnableIPv6":"yes"}',
    'EnableIPv6 is "yes"; it must be true or false',
  )
  refuses(
    t,
    '{"Network":"10.3.0.0/16","Backend":"vxlan"}',
    'Backend must be an object such as {"Type":"udp"}',
  )
  refuses(
    t,
    '{"Network":"10.3.0.0/16","Backend":{"Type":5}}',
    'Backend.Type is 5, not a string',
  )
  t.end()
})

t.test('what is no JSON object is refused', t => {
  for (const text of ['', '{', '{"Network":"10.3.0.0/16",}', "{'Network':1}", '\0']) {
    t.throws(
      () => parseNetworkConfig(text),
      { code: 'ERR_SUBNET_CONFIG', message: /^network configuration: not JSON: / },
      JSON.stringify(text),
    )
  }
  for (const text of ['null', '[]', '"10.3.0.0/16"', '7', 'true']) {
    refuses(t, text, 'must be a JSON object such as {"Network":"10.5.0.0/16"}')
  }
  t.end()
})

t.test('any text is a configuration or ERR_SUBNET_CONFIG', async t => {
  const value = fc.oneof(
    fc.constantFrom('10.3.0.0/16', 'fc00::/48', '10.3.1.0', 'fc00::', '', 'x'),
    fc.integer({ min: -1, max: 130 }),
    fc.boolean(),
    fc.constant(null),
    fc.jsonValue({ maxDepth: 1 }),
  )
  const key = fc.constantFrom(
    ...['EnableIPv4', 'EnableIPv6', 'Network', 'IPv6Network', 'SubnetLen'],
    ...['IPv6SubnetLen', 'SubnetMin', 'SubnetMax', 'IPv6SubnetMin', 'Backend'],
    '__proto__',
  )
  const text = fc
    .array(fc.tuple(key, value), { maxLength: 8 })
    .map(
      pairs =>
        `{${pairs.map(([name, given]) => `${JSON.stringify(name)}:${JSON.stringify(given)}`).join()}}`,
    )
  await holds(
    t,
    fc.property(fc.oneof(fc.string(), text), input => {
      try {
        const config = parseNetworkConfig(input)
        for (const family of config.families) {
          if (subnetCount(family) < 1n) throw new Error('no subnet in the range')
        }
      } catch (error) {
        if ((error as { code?: string }).code !== 'ERR_SUBNET_CONFIG') throw error
      }
    }),
    { numRuns: 3000 },
  )
})

t.test('the configuration spelled out means the same', t => {
  const texts = [
    '{"Network":"10.3.0.0/16"}',
    '{"Network":"10.3.0.0/20","SubnetLen":26,"SubnetMin":"10.3.0.64","enablenftables":true}',
    '{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"type":"vxlan","VNI":5}}',
    '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}',
  ]
  for (const text of texts) {
    const config = parseNetworkConfig(text)
    const spelled = parseNetworkConfig(formatNetworkConfig(config))
    t.strictSame(spelled.families, config.families)
    t.equal(spelled.backend.type, config.backend.type)
    t.equal(spelled.enableNfTables, config.enableNfTables)
    t.strictSame(spelled.derived, [])
    t.equal(formatNetworkConfig(spelled), formatNetworkConfig(config))
  }
  t.end()
})

t.test('a subnet of the network has its length and lies in its range', t => {
  const config = familyConfig(
    parseNetworkConfig(
      '{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.7.0"}',
    ),
    4,
  )!
  t.equal(subnetCount(config), 3n)
  for (const text of ['10.3.5.0/24', '10.3.6.0/24', '10.3.7.0/24']) {
    t.equal(isSubnetOf(config, parsePrefix(text)), true, text)
  }
  for (const text of ['10.3.4.0/24', '10.3.8.0/24', '10.3.5.0/25', '10.3.0.0/16']) {
    t.equal(isSubnetOf(config, parsePrefix(text)), false, text)
  }
  t.equal(isSubnetOf(config, parsePrefix('10.4.5.0/24')), false)
  t.equal(isSubnetOf(config, parsePrefix('fc00::/24')), false)
  t.end()
})

t.test('of several spellings of a key the last one counts, as for Go', t => {
  t.equal(lookUp({ network: 1, Network: 2 }, 'Network'), 2)
  t.equal(lookUp({ Network: 1, network: 2 }, 'Network'), 2)
  t.equal(lookUp({ Network: 1, network: null }, 'Network'), 1)
  t.equal(lookUp({ Network: null }, 'Network'), undefined)
  t.equal(lookUp({}, 'constructor'), undefined)
  t.equal(lookUp({}, '__proto__'), undefined)
  t.equal(lookUp(JSON.parse('{"__proto__":5}') as object as never, '__PROTO__'), 5)
  t.strictSame(unknownKeys({ a: 1, B: 2, c: 3 }, ['A', 'b']), ['c'])
  t.end()
})
