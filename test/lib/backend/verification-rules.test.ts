/** The text by which the kernel verifies sources. */
import t from 'tap'
import {
  type Sender,
  isSameKind,
  linesBetween,
  linesOfTable,
  membershipOf,
  vxlanEncapsulation,
} from '../../../lib/backend/kernel/verification-rules.js'
import { parseAddress, parsePrefix } from '../../../lib/subnet/prefix.js'

const WAY = { port: 8472, vni: 7 }

function family(subnet: string) {
  const parsed = parsePrefix(subnet)
  return { encapsulation: vxlanEncapsulation(parsed.family, WAY), subnet: parsed }
}

function sender(subnet: string, ...addresses: readonly string[]): Sender {
  return { subnets: [parsePrefix(subnet)], addresses: addresses.map(parseAddress) }
}

function pairsOf(own: string, mode: 'strict' | 'inner', ...senders: Sender[]): string[] {
  const rules = { families: [family(own)], mode, direct: undefined }
  const { elements } = membershipOf(rules, senders)
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

t.test('subnets of other lengths than whole bytes are ranges', t => {
  const pairs = (own: string, other: string): string[] =>
    pairsOf(own, 'inner', sender(other, '192.0.2.2'))

  t.strictSame(pairs('10.5.0.0/22', '10.5.8.0/22'), ['0xa050800-0xa050bff'])
  t.strictSame(pairs('10.5.1.0/26', '10.5.1.64/26'), ['0xa050140-0xa05017f'])
  t.strictSame(
    pairs('10.5.1.0/24', '10.5.4.0/22'),
    ['0xa050400-0xa0507ff'],
    'a larger one',
  )
  t.strictSame(
    pairs('10.5.1.0/24', '10.5.4.128/25'),
    ['0xa050480-0xa0504ff'],
    'a smaller',
  )
  t.strictSame(pairs('fd00:5::/60', 'fd00:5:0:10::/60'), [
    '0xfd000005000000100000000000000000-0xfd0000050000001fffffffffffffffff',
  ])
  t.end()
})

t.test('with one of another length each is a range, and the set is another', t => {
  const rules = {
    families: [family('10.5.1.0/24')],
    mode: 'inner' as const,
    direct: undefined,
  }
  const same = membershipOf(rules, [sender('10.5.2.0/24', '192.0.2.2')])
  const mixed = membershipOf(rules, [
    sender('10.5.2.0/24', '192.0.2.2'),
    sender('10.5.4.0/23', '192.0.2.3'),
  ])

  t.strictSame([...(same.elements.get('pairs4') ?? [])], ['0xa0502'])
  t.strictSame(
    [...(mixed.elements.get('pairs4') ?? [])],
    ['0xa050200-0xa0502ff', '0xa050400-0xa0505ff'],
  )
  t.notOk(isSameKind(same, mixed))
  const text = linesOfTable('x', rules, mixed, new Map()).join('\n')
  t.match(text, 'typeof @th,336,32; flags interval;')
  t.match(text, '@th,336,32 @pairs4 return')
  t.end()
})

t.test('leased subnets by the underlay are intervals that do not overlap', t => {
  const networks = [parsePrefix('10.5.0.0/16')]
  const rules = {
    families: [],
    mode: 'strict' as const,
    direct: { device: 'eth0', networks, isTaken: true, subnets: [] },
  }
  const { elements } = membershipOf(rules, [
    sender('10.5.4.0/22', '192.0.2.2'),
    sender('10.5.5.0/24', '192.0.2.3'),
    sender('10.5.2.0/24', '192.0.2.4'),
  ])
  t.strictSame([...(elements.get('leased4') ?? [])], ['10.5.2.0/24', '10.5.4.0/22'])
  t.end()
})

t.test('a change is the elements that come and go', t => {
  const rules = {
    families: [family('10.5.1.0/24')],
    mode: 'strict' as const,
    direct: undefined,
  }
  const { elements: before } = membershipOf(rules, [
    sender('10.5.2.0/24', '192.0.2.2'),
    sender('10.5.3.0/24', '192.0.2.3'),
  ])
  const { elements: after } = membershipOf(rules, [
    sender('10.5.2.0/24', '192.0.2.2'),
    sender('10.5.3.0/24', '192.0.2.4'),
  ])

  t.strictSame(linesBetween('x', before, after), [
    'delete element inet x pairs4 { 192.0.2.3 . 0xa0503 }',
    'add element inet x pairs4 { 192.0.2.4 . 0xa0503 }',
    'delete element inet x senders4 { 192.0.2.3 }',
    'add element inet x senders4 { 192.0.2.4 }',
  ])
  t.strictSame(linesBetween('x', after, after), [])
  t.end()
})

t.test('the rules of a host with vxlan and DirectRouting', t => {
  const rules = {
    families: [family('10.5.1.0/24')],
    mode: 'strict' as const,
    direct: {
      device: 'eth0',
      networks: [parsePrefix('10.5.0.0/16')],
      isTaken: true,
      subnets: [],
    },
  }
  const counted = new Map([['notIp', { packets: 3, bytes: 99 }]])
  const lines = linesOfTable('x', rules, membershipOf(rules, []), counted)
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
    'iifname "eth0" ip saddr 10.5.0.0/16 ip saddr != @leased4 counter name wrongSource drop',
    'iifname "eth0" ip saddr 10.5.0.0/16 fib saddr . iif oif missing counter name reversePath drop',
  ])
  t.end()
})
