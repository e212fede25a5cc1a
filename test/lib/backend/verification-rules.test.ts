/** The text by which the kernel verifies sources. */
import t from 'tap'
import {
  type Sender,
  elementsOf,
  linesBetween,
  linesOfTable,
  vxlanEncapsulation,
} from '../../../lib/backend/kernel/verification-rules.js'
import { parseAddress, parsePrefix } from '../../../lib/subnet/prefix.js'
import { fc, holds } from '../../helpers/property.js'

const WAY = { port: 8472, vni: 7 }

function family(subnet: string) {
  const parsed = parsePrefix(subnet)
  return { encapsulation: vxlanEncapsulation(parsed.family, WAY), subnet: parsed }
}

function sender(subnet: string, ...addresses: readonly string[]): Sender {
  return { subnets: [parsePrefix(subnet)], addresses: addresses.map(parseAddress) }
}

function pairsOf(own: string, mode: 'strict' | 'inner', ...senders: Sender[]): string[] {
  const rules = { families: [family(own)], mode }
  const elements = elementsOf(rules, senders)
  return [...(elements.get(`pairs${parsePrefix(own).family}`) ?? [])]
}

t.test('a sender is a pair of its address and its subnet', t => {
  const one = sender('10.5.2.0/24', '192.0.2.2', '198.51.100.2', '2001:db8::2')

  t.strictSame(pairsOf('10.5.1.0/24', 'strict', one), [
    '192.0.2.2 . 0xa0502',
    '198.51.100.2 . 0xa0502',
  ])
  t.strictSame(pairsOf('10.5.1.0/24', 'inner', one), ['0xa0502'])
  const six = sender('fd00:5:0:2::/64', '2001:db8::2')
  t.strictSame(pairsOf('fd00:5:0:1::/64', 'strict', six), [
    '2001:db8::2 . 0xfd00000500000002',
  ])
  t.end()
})

t.test('subnets of other lengths are as many whole bytes as they hold', t => {
  const pairs = (own: string, other: string): string[] =>
    pairsOf(own, 'inner', sender(other, '192.0.2.2'))

  t.strictSame(pairs('10.5.0.0/22', '10.5.8.0/22'), [
    '0xa0508',
    '0xa0509',
    '0xa050a',
    '0xa050b',
  ])
  t.equal(pairs('10.5.1.0/26', '10.5.1.64/26').length, 64)
  t.equal(pairs('10.5.1.0/26', '10.5.1.64/26')[0], '0xa050140')
  t.equal(pairs('10.5.1.0/24', '10.5.4.0/22').length, 4, 'a larger one')
  t.strictSame(pairs('10.5.1.0/24', '10.5.4.128/25'), ['0xa0504'], 'a smaller one')
  t.strictSame(pairs('10.5.1.0/30', '10.0.0.0/9'), [], 'one that is far too large')
  t.end()
})

t.test('each address of a subnet is let in, and none beside it', async t => {
  const length = fc.integer({ min: 17, max: 30 })
  await holds(
    t,
    fc.property(length, fc.nat(), (bits, number) => {
      const size = 2 ** (32 - bits)
      const base = 0x0a050000 + (number % 2 ** (bits - 16)) * size
      const text = [24, 16, 8, 0].map(shift => (base >>> shift) & 255).join('.')
      const keys = new Set(
        pairsOf(`10.5.0.0/${bits}`, 'inner', sender(`${text}/${bits}`, '192.0.2.2')),
      )
      const keyBits = Math.ceil(bits / 8) * 8
      const isIn = (address: number): boolean =>
        keys.has(`0x${((address / 2 ** (32 - keyBits)) | 0).toString(16)}`)
      return isIn(base) && isIn(base + size - 1) && !isIn(base - 1) && !isIn(base + size)
    }),
  )
})

t.test('a change is the elements that come and go', t => {
  const rules = { families: [family('10.5.1.0/24')], mode: 'strict' as const }
  const before = elementsOf(rules, [
    sender('10.5.2.0/24', '192.0.2.2'),
    sender('10.5.3.0/24', '192.0.2.3'),
  ])
  const after = elementsOf(rules, [
    sender('10.5.2.0/24', '192.0.2.2'),
    sender('10.5.3.0/24', '192.0.2.4'),
  ])

  t.strictSame(linesBetween('x', before, after), [
    'add element inet x pairs4 { 192.0.2.4 . 0xa0503 }',
    'delete element inet x pairs4 { 192.0.2.3 . 0xa0503 }',
    'add element inet x senders4 { 192.0.2.4 }',
    'delete element inet x senders4 { 192.0.2.3 }',
  ])
  t.strictSame(linesBetween('x', after, after), [])
  t.end()
})

t.test('the rules of a host with vxlan and DirectRouting', t => {
  const rules = {
    families: [family('10.5.1.0/24')],
    mode: 'strict' as const,
    direct: { device: 'eth0', networks: [parsePrefix('10.5.0.0/16')] },
  }
  const counted = new Map([['notIp', { packets: 3, bytes: 99 }]])
  const lines = linesOfTable('x', rules, elementsOf(rules, []), counted)
  const chain = (name: string): readonly string[] => {
    const start = lines.indexOf(`chain ${name} {`)
    return lines.slice(start + 1, lines.indexOf('}', start))
  }

  t.strictSame(lines.slice(0, 3), [
    'table inet x {}',
    'delete table inet x',
    'table inet x {',
  ])
  t.ok(lines.includes('counter notIp { packets 3 bytes 99 }'), 'what was counted stays')
  t.strictSame(chain('verify4'), [
    '@th,224,16 != 0x0800 counter name notIp drop',
    '@th,368,24 != 0xa0501 goto wrongDestination4',
    'ip saddr . @th,336,24 @pairs4 return',
    'ip saddr @senders4 goto wrongSource4',
    'goto unknownSender4',
  ])
  t.strictSame(chain('input'), [
    'type filter hook input priority filter - 10; policy accept;',
    'meta nfproto ipv4 udp dport 8472 @th,96,24 7 goto verify4',
  ])
  t.strictSame(chain('prerouting'), [
    'type filter hook prerouting priority raw; policy accept;',
    'iifname "eth0" ip saddr 10.5.0.0/16 fib saddr . iif oif missing counter name reversePath drop',
  ])
  t.end()
})
