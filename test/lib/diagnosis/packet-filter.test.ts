import t from 'tap'
import {
  type SavedTable,
  findMasquerade,
  findRefusal,
} from '../../../lib/diagnosis/packet-filter.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'

const PACKET = {
  in: 'eth0',
  source: parseAddress('192.0.2.2'),
  destination: parseAddress('192.0.2.1'),
  protocol: 'udp',
  port: 8285,
} as const

/** One kind of iptables is in use. */
const only = (text: string, family: 4 | 6 = 4): SavedTable[] => [
  { program: family === 4 ? 'iptables' : 'ip6tables', family, text },
]

/** A table as iptables-save prints it. */
function table(policy: string, ...rules: readonly string[]): string {
  return ['*filter', `:INPUT ${policy} [0:0]`, ':CHAIN - [0:0]', ...rules, 'COMMIT'].join(
    '\n',
  )
}

const DROP = '-A INPUT -p udp -m udp --dport 8285 -j DROP'

for (const [name, saved, rule] of [
  ['no rule, and a policy that accepts', table('ACCEPT'), 'accepted'],
  ['no rule, and a policy that drops', table('DROP'), undefined],
  ['a rule for the port', table('ACCEPT', DROP), DROP],
  ['one for another port', table('ACCEPT', DROP.replace('8285', '53')), 'accepted'],
  ['one for a range', table('ACCEPT', DROP.replace('8285', '8000:9000')), 'the rule'],
  ['accepted before', table('ACCEPT', '-A INPUT -i eth+ -j ACCEPT', DROP), 'accepted'],
  [
    'accepted from others',
    table('DROP', '-A INPUT -s 192.0.2.3/32 -j ACCEPT'),
    undefined,
  ],
  [
    'accepted but from it',
    table('DROP', '-A INPUT ! -s 192.0.2.2/32 -j ACCEPT'),
    undefined,
  ],
  [
    'accepted when it belongs to a connection',
    table('DROP', '-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'),
    undefined,
  ],
  [
    'in a chain of its own',
    table(
      'ACCEPT',
      '-A INPUT -j CHAIN',
      '-A CHAIN -p udp -j REJECT --reject-with icmp-port-unreachable',
    ),
    'the rule',
  ],
  [
    'a chain that returns',
    table(
      'DROP',
      '-A INPUT -j CHAIN',
      '-A INPUT -p udp -j ACCEPT',
      '-A CHAIN -j RETURN',
      '-A CHAIN -j DROP',
    ),
    'accepted',
  ],
  [
    'a condition that nobody here knows',
    table('ACCEPT', '-A INPUT -m limit --limit 1/sec -j DROP'),
    'accepted',
  ],
  [
    'a comment that looks like a rule',
    table('ACCEPT', '-A INPUT -m comment --comment "a -j DROP" -p tcp -j DROP'),
    'accepted',
  ],
  [
    'accepted by a condition without a value',
    table('DROP', '-A INPUT -m physdev --physdev-is-bridged -j ACCEPT'),
    'accepted',
  ],
  [
    'accepted by a condition with two values',
    table('DROP', '-A INPUT -m set ! --match-set peers src -j ACCEPT'),
    'accepted',
  ],
  [
    'dropped behind what may return',
    table(
      'DROP',
      '-A INPUT -j CHAIN',
      '-A CHAIN -m mark --mark 0x1 -j RETURN',
      '-A CHAIN -j DROP',
    ),
    'accepted',
  ],
  ['a loop', table('DROP', '-A INPUT -j CHAIN', '-A CHAIN -j CHAIN'), undefined],
] as const)
  t.test(name, t => {
    const refusal = findRefusal(only(saved), 'INPUT', PACKET)
    if (rule === 'accepted') t.equal(refusal, undefined)
    else if (rule === 'the rule') t.type(refusal?.rule, 'string')
    else t.equal(refusal?.rule, rule, JSON.stringify(refusal))
    if (rule !== 'accepted') t.ok(refusal, 'it is refused')
    t.end()
  })

const NAT = (...rules: readonly string[]): string =>
  ['*nat', ':POSTROUTING ACCEPT [0:0]', ':OURS - [0:0]', ...rules, 'COMMIT'].join('\n')
const MASQUERADE = '-A POSTROUTING -s 192.0.2.0/24 ! -o docker0 -j MASQUERADE'

for (const [name, saved, rule] of [
  ['no rule masquerades', NAT(), undefined],
  ['one does', NAT(MASQUERADE), MASQUERADE],
  [
    'one before it accepts',
    NAT('-A POSTROUTING -d 192.0.2.1/32 -j ACCEPT', MASQUERADE),
    undefined,
  ],
  [
    'a chain before it returns',
    NAT('-A POSTROUTING -j OURS', '-A OURS -d 192.0.2.1/32 -j RETURN', MASQUERADE),
    MASQUERADE,
  ],
  ['for another device', NAT(MASQUERADE.replace('docker0', 'flannel0')), undefined],
] as const)
  t.test(name, t => {
    const met = findMasquerade(only(saved), { ...PACKET, out: 'flannel0' })
    t.equal(met?.rule, rule)
    t.end()
  })

t.test('each of forty chains jumps to the next one twice', t => {
  const chains = Array.from({ length: 40 }, (_, index) => `CHAIN-${index}`)
  const jumps = chains.flatMap((chain, index) => {
    const jump = `-A ${chain} -j ${chains[index + 1] ?? 'DROP'}`
    return [`:${chain} - [0:0]`, jump, jump]
  })
  const begin = performance.now()

  const met = findRefusal(
    only(['*filter', ':INPUT ACCEPT [0:0]', ...jumps, '-A INPUT -j CHAIN-0'].join('\n')),
    'INPUT',
    PACKET,
  )

  t.equal(met?.rule, '-A CHAIN-39 -j DROP')
  const returning = [
    ...jumps.filter(line => !line.endsWith('DROP')),
    '-A INPUT -j CHAIN-0',
  ]
  t.equal(
    findRefusal(only(['*filter', ...returning].join('\n')), 'INPUT', PACKET),
    undefined,
  )
  t.ok(performance.now() - begin < 5000, 'and is walked once')
  t.end()
})

t.test('tables of the other family do not count, and the kinds are judged in turn', t => {
  const all = table('ACCEPT', '-A INPUT -j DROP')
  const six = {
    in: 'eth0',
    protocol: 'icmp',
    source: parseAddress('fd00::2'),
    destination: parseAddress('fd00::1'),
  } as const
  t.equal(findRefusal(only(all), 'INPUT', six), undefined)
  t.equal(findRefusal(only(all, 6), 'INPUT', PACKET), undefined)
  const ping = '-A INPUT -s fd00::/64 -p ipv6-icmp -j REJECT --reject-with x'
  const tables = [
    ...only(all),
    ...only(table('ACCEPT'), 6),
    { program: 'ip6tables-legacy', family: 6, text: table('ACCEPT', ping) } as const,
  ]
  t.strictSame(findRefusal(tables, 'INPUT', six), {
    program: 'ip6tables-legacy',
    chain: 'INPUT',
    rule: ping,
  })
  t.end()
})
