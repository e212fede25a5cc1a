import t from 'tap'
import { formatPrefix, parsePrefix } from '../../../lib/subnet/prefix.js'
import {
  formatSubnetEnv,
  parseSubnetEnv,
  parseVariables,
} from '../../../lib/subnet/subnet-env.js'
import {
  formatSubnet,
  sameSubnet,
  subnetFromPrefixes,
} from '../../../lib/subnet/subnet-key.js'
import { fc, holds } from '../../helpers/property.js'
import { anySubnet } from '../../helpers/subnet-arbitraries.js'

const subnetOf = (...texts: string[]) => subnetFromPrefixes(texts.map(parsePrefix))

const dual = {
  networks: [parsePrefix('10.5.0.0/16'), parsePrefix('2001:cafe:42::/56')],
  subnet: subnetOf('10.5.72.0/24', '2001:cafe:42::/64'),
  mtu: 1450,
  ipMasq: false,
}

t.test("the file has flannel's bytes", t => {
  t.equal(
    formatSubnetEnv(dual),
    `FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=2001:cafe:42::/56
FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
`,
  )
  t.equal(
    formatSubnetEnv({
      networks: dual.networks.slice(0, 1),
      subnet: subnetOf('10.5.72.0/24'),
      mtu: 1472,
      ipMasq: true,
    }),
    `FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
`,
  )
  t.end()
})

t.test('what was written is read back', async t => {
  t.strictSame(parseSubnetEnv(formatSubnetEnv(dual)).networks, dual.networks)
  await holds(
    t,
    fc.property(anySubnet, subnet => {
      const networks = Object.values(subnet) as typeof dual.networks
      const read = parseSubnetEnv(formatSubnetEnv({ ...dual, networks, subnet }))
      return sameSubnet(read.subnet, subnet)
    }),
  )
})

t.test('what people made of the file is read too', t => {
  const text = `# by hand\r
export FLANNEL_NETWORK="10.5.0.0/16"\r
  FLANNEL_SUBNET = '10.5.72.1/24'   \r
FLANNEL_IPV6_SUBNET=fd00:1::1/64 # the other
FLANNEL_MTU
=x
`
  const { networks, subnet } = parseSubnetEnv(text)
  t.strictSame(networks.map(formatPrefix), ['10.5.0.0/16'])
  t.equal(formatSubnet(subnet), '10.5.72.0/24 and fd00:1::/64')
  t.end()
})

t.test('what cannot be read counts as absent, alone', t => {
  const cases = [
    '',
    '10.5.72.1',
    '10.5.72.1/33',
    '10.5.72.1/24,10.5.73.1/24',
    'fd00::1/64',
    '$(reboot)',
    '"10.5.72.1/24',
  ]
  for (const value of cases) {
    const text = `FLANNEL_SUBNET=${value}\nFLANNEL_IPV6_SUBNET=fd00:1::1/64\n`
    t.equal(formatSubnet(parseSubnetEnv(text).subnet), 'fd00:1::/64', value)
  }
  t.strictSame(parseSubnetEnv('FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16'), {
    networks: [],
    subnet: {},
  })
  t.end()
})

t.test('no file takes it down or long to read', async t => {
  await holds(
    t,
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), text => {
      parseSubnetEnv(text)
      parseSubnetEnv(`FLANNEL_SUBNET=${text}`)
    }),
  )
  const blanks = `FLANNEL_SUBNET=x${' '.repeat(1_000_000)}y`
  const started = performance.now()
  parseSubnetEnv(blanks)
  t.ok(performance.now() - started < 5000)
})

t.test('a hash begins a comment only behind a blank', t => {
  const variables = parseVariables('A=b#c\nD=e #f\nG="h #i"\nJ=\nK=1=2')
  t.strictSame(
    [...variables],
    [
      ['A', 'b#c'],
      ['D', 'e'],
      ['G', 'h #i'],
      ['J', ''],
      ['K', '1=2'],
    ],
  )
  t.end()
})
