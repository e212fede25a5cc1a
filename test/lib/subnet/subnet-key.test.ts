import t from 'tap'
import { parsePrefix } from '../../../lib/subnet/prefix.js'
import {
  cleanPrefix,
  configKey,
  formatSubnet,
  formatSubnetKey,
  formatSubnetName,
  parseSubnetKey,
  prefixesOf,
  sameSubnet,
  subnetFromPrefixes,
  subnetsOverlap,
  subnetsPrefix,
} from '../../../lib/subnet/subnet-key.js'
import { fc, holds } from '../../helpers/property.js'
import { anySubnet } from '../../helpers/subnet-arbitraries.js'

const subnetOf = (...texts: string[]) => subnetFromPrefixes(texts.map(parsePrefix))

t.test("a subnet's key is spelled as flannel spells it", t => {
  const golden: readonly [name: string, ...prefixes: string[]][] = [
    ['10.5.52.0-24', '10.5.52.0/24'],
    ['10.12.13.0-24&fd00:12:13::-56', '10.12.13.0/24', 'fd00:12:13::/56'],
    ['0.0.0.0-0&fd00:12:13::-56', 'fd00:12:13::/56'],
    ['128.0.0.0-1', '128.0.0.0/1'],
    ['10.0.0.2-31', '10.0.0.2/31'],
  ]
  for (const [name, ...prefixes] of golden) {
    const key = `/coreos.com/network/subnets/${name}`
    const subnet = subnetOf(...prefixes)
    t.equal(formatSubnetKey('/coreos.com/network', subnet), key)
    t.strictSame(parseSubnetKey(key), subnet)
    t.strictSame(parseSubnetKey(name), subnet)
  }
  t.end()
})

t.test('parsing takes back what formatting gave', async t => {
  await holds(
    t,
    fc.property(anySubnet, subnet =>
      sameSubnet(parseSubnetKey(formatSubnetKey('/a/b', subnet)), subnet),
    ),
  )
})

t.test('no subnet has two names', async t => {
  const name = fc.stringMatching(
    /^[0-9a-f]{1,3}(\.\d{1,3}){3}-\d{1,2}(&[0-9a-f:]{2,9}-\d{1,3})?$/,
  )
  await holds(
    t,
    fc.property(fc.oneof(fc.string(), name), text => {
      try {
        return formatSubnetName(parseSubnetKey(text)) === text
      } catch (error) {
        return error instanceof SyntaxError
      }
    }),
    { numRuns: 2000 },
  )
})

t.test('what flannel or we cannot read is refused', t => {
  const flannels = [
    '10',
    '10.12.13.0',
    '10.12.13-24',
    '10.12.13.300-24',
    '10.12.13.0-24hi',
    '&2001::-56',
    '10.12.13.0-24&:12:13:-56',
    '10.12.13.0-24&20011::-56',
    '10.12.13.0-24&2001-56',
    '10.12.13.0-24&2001::',
    '10.12.13.0-24&2001::-56hi',
  ]
  const aliases = [
    '',
    '/',
    '10.12.13.1-24',
    '010.12.13.0-24',
    '10.12.13.0-024',
    '10.12.13.0-32',
    '10.12.13.0-33',
    '0.0.0.0-0',
    '10.12.13.0-0',
    '10.12.13.0-24&fd00::1-56',
    '10.12.13.0-24&FD00::-56',
    '10.12.13.0-24&fd00:0::-56',
    '10.12.13.0-24&fd00::-128',
    '10.12.13.0-24&::-0',
    '10.12.13.0-24 ',
    ' 10.12.13.0-24',
    '10.12.13.0-24\n',
    '10.12.13.0/24',
    'x10.12.13.0-24',
    '10.12.13.0-24&',
    '１0.12.13.0-24',
    '10.12.13.0-24&fd00::-56&fd01::-56',
  ]
  for (const name of [...flannels, ...aliases]) {
    const key = `/coreos.com/network/subnets/${name}`
    t.throws(
      () => parseSubnetKey(key),
      {
        name: 'SyntaxError',
        message: `key ${JSON.stringify(key)} does not name a subnet such as 10.5.52.0-24`,
      },
      JSON.stringify(name),
    )
  }
  t.end()
})

t.test('a key in a directory below names no subnet: its own key may exist too', t => {
  for (const key of ['/net/subnets/old/10.5.52.0-24', '/net/subnets//10.5.52.0-24']) {
    t.throws(() => parseSubnetKey(key), { name: 'SyntaxError' }, key)
  }
  t.end()
})

t.test('the etcd prefix is cleaned as flannel does', t => {
  const cases: readonly [given: string, clean: string][] = [
    ['/coreos.com/network', '/coreos.com/network'],
    ['/coreos.com/network/', '/coreos.com/network'],
    ['coreos.com//network//', '/coreos.com/network'],
    ['/a/./b/../c', '/a/c'],
    ['//a', '/a'],
    ['/', ''],
    ['', ''],
  ]
  for (const [given, clean] of cases) t.equal(cleanPrefix(given), clean, given)
  t.equal(configKey('/a'), '/a/config')
  t.equal(subnetsPrefix('/a'), '/a/subnets/')
  t.end()
})

t.test('two subnets overlap when a half of them does', t => {
  const dual = subnetOf('10.5.1.0/24', 'fd00:1::/64')
  t.equal(subnetsOverlap(dual, subnetOf('10.5.1.128/25')), true)
  t.equal(subnetsOverlap(dual, subnetOf('10.5.2.0/24', 'fd00:1::/64')), true)
  t.equal(subnetsOverlap(dual, subnetOf('10.5.2.0/24', 'fd00:2::/64')), false)
  t.equal(sameSubnet(dual, subnetOf('10.5.1.0/24')), false)
  t.equal(sameSubnet(dual, subnetOf('fd00:1::/64', '10.5.1.0/24')), true)
  t.end()
})

t.test('people read both halves, IPv4 first', t => {
  const dual = subnetOf('fd00:1::/64', '10.5.1.0/24')
  t.equal(formatSubnet(dual), '10.5.1.0/24 and fd00:1::/64')
  t.equal(formatSubnet(subnetOf('10.5.1.0/24')), '10.5.1.0/24')
  t.strictSame(
    prefixesOf(dual).map(({ family }) => family),
    [4, 6],
  )
  t.end()
})
