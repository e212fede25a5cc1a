/** flannel's rules in nftables, among those of others. */
import t from 'tap'
import {
  isAnyPresent,
  linesToEnsure,
  linesToRelease,
  nftChains,
  printedRules,
} from '../../../lib/backend/nft-firewall-rules.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'

const FAMILY = {
  network: parsePrefix('10.5.0.0/16'),
  subnet: parsePrefix('10.5.72.0/24'),
}
const ALL = { forward: true, masquerade: true, randomFully: true }
const own = nftChains(FAMILY, ALL)
const others = nftChains(
  { network: parsePrefix('10.6.0.0/16'), subnet: parsePrefix('10.6.1.0/24') },
  ALL,
)

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

const linesOf = ({ chains }: typeof own, name: string): string[] => {
  const chain = chains.find(each => each.name === name)
  return [...(chain?.rules ?? [])]
}
const HEADER = own.chains.map(({ header }) => header)
const HEAD = own.chains[0]?.head ?? ''
const right = listed(
  [...HEADER[0]!, HEAD, ...linesOf(own, 'postrtg'), ...linesOf(others, 'postrtg')],
  [...HEADER[1]!, ...linesOf(own, 'forward'), ...linesOf(others, 'forward')],
)

t.test('rules are known by what they name, in order, behind the mark', t => {
  t.equal(
    printedRules(right, own),
    [
      ...HEADER[0]!,
      ...linesOf(own, 'postrtg'),
      ...HEADER[1]!,
      ...linesOf(own, 'forward'),
    ].join('\n'),
  )
  t.equal(printedRules('', own), undefined)
  t.equal(printedRules(right.replace(`\t\t${HEAD}\n`, ''), own), undefined, 'no mark')
  const [first = ''] = linesOf(own, 'postrtg')
  t.equal(
    printedRules(right.replace(first, `${first}\n\t\tip saddr 10.9.0.1 accept`), own),
    undefined,
    'somebody in between',
  )
  t.equal(
    printedRules(right.replace(HEAD, 'mark and 0x4000 == 0x4000 return'), own),
    printedRules(right, own),
    'in the words of another version',
  )
  t.not(
    printedRules(right.replace('accept', 'drop'), own),
    printedRules(right, own),
    'changed',
  )
  t.end()
})

t.test('ours are written before those of others, in one step', t => {
  const lines = linesToEnsure(right, own)

  const start = lines.indexOf('chain postrtg {')
  t.strictSame(lines.slice(start + 1, lines.indexOf('}', start)), [
    ...HEADER[0]!,
    HEAD,
    ...linesOf(own, 'postrtg'),
    ...linesOf(others, 'postrtg'),
  ])
  t.end()
})

t.test('ours go, and the table with the last', t => {
  t.ok(isAnyPresent(right, own))
  const text = linesToRelease(right, own).join('\n')
  t.notMatch(text, '10.5.')
  t.match(text, 'ip saddr 10.6.0.0/16 accept')
  t.match(text, HEAD)
  const alone = listed([...HEADER[0]!, HEAD, ...linesOf(own, 'postrtg')], [])
  t.strictSame(linesToRelease(alone, own), ['delete table ip flannel-ipv4'])
  t.end()
})

t.test('IPv6 has its own words; what is not asked for is not there', t => {
  const family = {
    network: parsePrefix('fd00:5::/48'),
    subnet: parsePrefix('fd00:5:0:1::/64'),
  }
  const { table, chains } = nftChains(family, {
    ...ALL,
    forward: false,
    randomFully: false,
  })

  t.strictSame(table, { family: 'ip6', name: 'flannel-ipv6' })
  t.strictSame(
    chains.map(({ name }) => name),
    ['postrtg'],
  )
  t.strictSame(chains[0]?.rules, [
    'ip6 saddr fd00:5:0:1::/64 ip6 daddr fd00:5::/48 return',
    'ip6 saddr fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return',
    'ip6 saddr != fd00:5::/48 ip6 daddr fd00:5:0:1::/64 return',
    'ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade',
    'ip6 saddr != fd00:5::/48 ip6 daddr fd00:5::/48 masquerade',
  ])
  t.end()
})
