import t from 'tap'
import {
  ADDRESS_BITS,
  type Prefix,
  baseAddress,
  containsAddress,
  containsPrefix,
  firstHostAddress,
  formatAddress,
  formatPrefix,
  networkMask,
  overlaps,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
  prefixSize,
  sameAddress,
  samePrefix,
} from '../../../lib/subnet/prefix.js'
import { fc, holds } from '../../helpers/property.js'
import { anyAddress, anyPrefix } from '../../helpers/subnet-arbitraries.js'

const last = (prefix: Prefix): bigint => prefix.network + prefixSize(prefix) - 1n

t.test('an address is written as Go writes it', t => {
  const canonical = [
    '0.0.0.0',
    '255.255.255.255',
    '10.5.72.1',
    '::',
    '::1',
    'fc00::',
    'fc00:0:0:1::',
    'fc00:0:0:ffff::',
    '2001:db8:0:1:1:1:1:1',
    '2001:db8::1:0:0:1',
    '2001:0:0:1::1',
    'fe80::1',
  ]
  for (const text of canonical) t.equal(formatAddress(parseAddress(text)), text)

  t.equal(formatAddress(parseAddress('2001:DB8:0:0:1:0:0:1')), '2001:db8::1:0:0:1')
  t.end()
})

t.test('what is no address is a SyntaxError', t => {
  const wrong = [
    '',
    ' ',
    '10.5.0',
    '10.5.0.0.1',
    '10.5.0.256',
    '10.5.0.-1',
    '010.5.0.1',
    '0x0a.5.0.1',
    ' 10.5.0.1',
    '10.5.0.1\n',
    '10.5.0.1/24',
    '10.5.0.1%eth0',
    'fe80::1%eth0',
    'fe80::1/64',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    'fe80::g',
    '12345::',
    'localhost',
    '１０.5.0.1',
  ]
  for (const text of wrong) {
    t.throws(() => parseAddress(text), { name: 'SyntaxError' }, JSON.stringify(text))
  }
  t.end()
})

t.test('a range loses its host bits, an interface address keeps them', t => {
  t.equal(formatPrefix(parsePrefix('10.5.72.9/24')), '10.5.72.0/24')
  t.equal(formatPrefix(parsePrefix('10.5.72.9/0')), '0.0.0.0/0')
  t.equal(formatPrefix(parsePrefix('10.5.72.9/32')), '10.5.72.9/32')
  t.equal(formatPrefix(parsePrefix('fd00::9/64')), 'fd00::/64')

  const { address, ...prefix } = parseInterfaceAddress('10.5.72.9/24')
  t.equal(formatAddress(address), '10.5.72.9')
  t.equal(formatPrefix(prefix), '10.5.72.0/24')
  t.end()
})

t.test('what is no range is a SyntaxError', t => {
  const wrong = [
    '',
    '10.5.0.0',
    '10.5.0.0/',
    '10.5.0.0/33',
    '10.5.0.0/033',
    '10.5.0.0/-1',
    '10.5.0.0/ 8',
    '10.5.0.0/8 ',
    '10.5.0.0/8/8',
    '10.5/16',
    'fd00::/129',
    'fd00::%eth0/64',
    '/24',
    '10.5.0.0/1e1',
    '10.5.0.0/255.255.0.0',
  ]
  for (const text of wrong) {
    t.throws(() => parsePrefix(text), { name: 'SyntaxError' }, JSON.stringify(text))
  }
  t.end()
})

t.test('parsing takes back what formatting gave', async t => {
  await holds(
    t,
    fc.property(anyAddress, address =>
      sameAddress(parseAddress(formatAddress(address)), address),
    ),
  )
  await holds(
    t,
    fc.property(anyPrefix, prefix =>
      samePrefix(parsePrefix(formatPrefix(prefix)), prefix),
    ),
  )
})

t.test('any text is an address, a range, or a SyntaxError', async t => {
  const digits = fc.stringMatching(/^[0-9a-fx.:/%\- \n]{0,50}$/)
  await holds(
    t,
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), digits), text => {
      for (const parse of [parseAddress, parsePrefix, parseInterfaceAddress]) {
        try {
          parse(text)
        } catch (error) {
          if (!(error instanceof SyntaxError)) throw error
        }
      }
    }),
    { numRuns: 2000 },
  )
})

t.test('containing and overlapping agree with comparing first and last', async t => {
  const nested = anyPrefix.chain(prefix =>
    fc.integer({ min: 0, max: prefix.length }).map((length): [Prefix, Prefix] => {
      const network = prefix.network & networkMask(prefix.family, length)
      return [{ ...prefix, network, length }, prefix]
    }),
  )
  await holds(
    t,
    fc.property(fc.oneof(fc.tuple(anyPrefix, anyPrefix), nested), ([a, b]) => {
      const sameFamily = a.family === b.family
      const inside = sameFamily && a.network <= b.network && last(b) <= last(a)
      const meets = sameFamily && a.network <= last(b) && b.network <= last(a)
      return (
        containsPrefix(a, b) === inside &&
        containsAddress(a, baseAddress(b)) ===
          (sameFamily && a.network <= b.network && b.network <= last(a)) &&
        overlaps(a, b) === meets &&
        overlaps(b, a) === meets
      )
    }),
    { numRuns: 1000 },
  )
})

t.test('masks and sizes hold at both ends', t => {
  for (const family of [4, 6] as const) {
    const bits = ADDRESS_BITS[family]
    t.equal(networkMask(family, 0), 0n)
    t.equal(networkMask(family, bits), (1n << BigInt(bits)) - 1n)
    t.equal(prefixSize({ family, length: 0 }), 1n << BigInt(bits))
    t.equal(prefixSize({ family, length: bits }), 1n)
  }
  t.equal(formatAddress(firstHostAddress(parsePrefix('10.5.72.0/24'))), '10.5.72.1')
  t.end()
})

t.test('absent equals absent only', t => {
  const address = parseAddress('10.5.0.1')
  const prefix = parsePrefix('10.5.0.0/24')
  t.equal(sameAddress(undefined, undefined), true)
  t.equal(sameAddress(address, undefined), false)
  t.equal(sameAddress(address, { ...address, family: 6 }), false)
  t.equal(samePrefix(undefined, undefined), true)
  t.equal(samePrefix(undefined, prefix), false)
  t.equal(samePrefix(prefix, parsePrefix('10.5.0.0/25')), false)
  t.end()
})
