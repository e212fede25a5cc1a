/** flannel's rules in nftables, among those of others. */
import t from 'tap'
import {
  isAnyPresent,
  linesToEnsure,
  linesToRelease,
  nftForwardChain,
  nftMasqueradeChain,
  printedRules,
} from '../../../lib/backend/nft-firewall-rules.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'

const FAMILY = {
  network: parsePrefix('10.5.0.0/16'),
  subnet: parsePrefix('10.5.72.0/24'),
}
const OTHER = { network: parsePrefix('10.6.0.0/16'), subnet: parsePrefix('10.6.1.0/24') }
const own = nftMasqueradeChain(FAMILY, true)
const others = nftMasqueradeChain(OTHER, true)
const { header, head = '', rules } = own.chain

/** A table as nft(8) prints it. */
function listed(postrtg: readonly string[], forward: readonly string[]): string {
  const chain = (name: string, lines: readonly string[]): string[] => [
    `\tchain ${name} {`,
    ...lines.map(line => `\t\t${line}`),
    '\t}',
    '',
  ]
  return [
    'table ip flannel-ipv4 {',
    ...chain('postrtg', postrtg),
    ...chain('forward', forward),
    '}',
    '',
  ].join('\n')
}

const forward = nftForwardChain(OTHER)
const right = listed(
  [...header, head, ...rules, ...others.chain.rules],
  [...forward.chain.header, ...forward.chain.rules],
)

t.test('rules are known by what they name, in order, behind the mark', t => {
  t.equal(printedRules(right, own), [...header, ...rules].join('\n'))
  t.equal(printedRules('', own), undefined)
  t.equal(printedRules(right.replace(`\t\t${head}\n`, ''), own), undefined, 'no mark')
  const [first = ''] = rules
  t.equal(
    printedRules(right.replace(first, `${first}\n\t\tip saddr 10.9.0.1 accept`), own),
    undefined,
    'somebody in between',
  )
  t.equal(
    printedRules(right.replace(head, 'mark and 0x4000 == 0x4000 return'), own),
    printedRules(right, own),
    'in the words of another version',
  )
  t.not(
    printedRules(right.replace('masquerade', 'accept'), own),
    printedRules(right, own),
    'changed',
  )
  t.end()
})

t.test('ours are written before those of others, in one step', t => {
  const lines = linesToEnsure(right, own)

  const start = lines.indexOf('chain postrtg {')
  t.strictSame(lines.slice(start + 1, lines.indexOf('}', start)), [
    ...header,
    head,
    ...rules,
    ...others.chain.rules,
  ])
  t.end()
})

t.test('ours go, and the chain and the table with the last', t => {
  t.ok(isAnyPresent(right, own))
  const text = linesToRelease(right, own).join('\n')
  t.notMatch(text, '10.5.')
  t.match(text, 'ip saddr 10.6.1.0/24 ip daddr 10.6.0.0/16 return')
  t.match(text, head)

  const beside = listed([...header, head, ...rules], [...forward.chain.header, 'accept'])
  t.strictSame(linesToRelease(beside, own), [
    'table ip flannel-ipv4 {}',
    'add chain ip flannel-ipv4 postrtg',
    'flush chain ip flannel-ipv4 postrtg',
    'delete chain ip flannel-ipv4 postrtg',
  ])
  const alone = `table ip flannel-ipv4 {\n\tchain postrtg {\n\t\t${head}\n\t}\n}\n`
  t.ok(isAnyPresent(alone, own))
  t.strictSame(linesToRelease(alone, own), ['delete table ip flannel-ipv4'])
  const foreign = 'table ip flannel-ipv4 {\n\tchain mine {\n\t\taccept\n\t}\n}\n'
  t.notOk(isAnyPresent(foreign, own))
  t.strictSame(linesToRelease(foreign, own), [])
  t.end()
})

t.test('IPv6 has its own words', t => {
  const family = {
    network: parsePrefix('fd00:5::/48'),
    subnet: parsePrefix('fd00:5:0:1::/64'),
  }
  const { table, chain } = nftMasqueradeChain(family, false)

  t.strictSame(table, { family: 'ip6', name: 'flannel-ipv6' })
  t.strictSame(chain.rules, [
    'ip6 saddr fd00:5:0:1::/64 ip6 daddr fd00:5::/48 return',
    'ip6 saddr fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return',
    'ip6 saddr != fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return',
    'ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade',
    'ip6 saddr != fd00:5::/48 ip6 daddr fd00:5::/48 masquerade',
  ])
  t.end()
})
