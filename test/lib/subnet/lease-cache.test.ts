import t from 'tap'
import { formatLeaseCache, parseLeaseCache } from '../../../lib/subnet/lease-cache.js'
import { parseSubnetKey } from '../../../lib/subnet/subnet-key.js'

const KEY = '/net/subnets/10.5.7.0-24'
const HOUR = 3_600_000

const CACHE = {
  config: '{"Network":"10.5.0.0/16"}',
  held: {
    key: KEY,
    subnet: parseSubnetKey(KEY),
    createRevision: 5n,
    modRevision: 7n,
    leaseId: '77',
    provenAt: 9 * HOUR,
  },
  permitUntil: 33 * HOUR,
  holder: '{"PublicIP":"192.0.2.1","PublicIPv6":null,"HostID":"a"}',
  revision: 9n,
  records: [
    {
      key: KEY,
      value: '{"PublicIP":"192.0.2.1","PublicIPv6":null,"HostID":"a"}',
      createRevision: 5n,
      modRevision: 7n,
      leaseId: '77',
    },
  ],
  orphans: [{ key: KEY, keptUntil: 11 * HOUR }],
  doubts: [
    {
      entry: { key: KEY, value: '{}', createRevision: 2n, modRevision: 3n },
      until: 11 * HOUR,
    },
  ],
}
const WRITTEN = { boot: 'one', now: 10 * HOUR, date: new Date('2026-06-01T12:00:00Z') }
const TEXT = formatLeaseCache(CACHE, WRITTEN)

t.test('within a boot everything comes back, whatever the time of day', t => {
  const date = new Date('2020-01-01T00:00:00Z')

  t.strictSame(parseLeaseCache(TEXT, { boot: 'one', now: 11 * HOUR, date }), CACHE)
  t.end()
})

t.test('after a reboot the time of day tells how long ago it was', t => {
  const date = new Date('2026-06-01T14:00:00Z')

  const { held, permitUntil } = parseLeaseCache(TEXT, { boot: 'two', now: 60_000, date })

  t.equal(held.provenAt, 60_000 - 3 * HOUR)
  t.equal(permitUntil, 60_000 + 21 * HOUR)
  t.end()
})

t.test('a clock that starts before the writing proves nothing', t => {
  const present = { boot: 'two', now: 60_000, date: new Date('2026-05-31T00:00:00Z') }

  const cache = parseLeaseCache(TEXT, present)

  t.ok(cache.held.provenAt + 24 * HOUR < present.now)
  t.ok(cache.permitUntil < present.now)
  t.match(parseLeaseCache(formatLeaseCache(cache, present), present), {
    held: { key: KEY },
  })
  t.end()
})

t.test('what is not a cache of this version is refused', t => {
  const broken = [
    '',
    'null',
    '{}',
    TEXT.replace('"version":3', '"version":2'),
    TEXT.replace('"createRevision":"5"', '"createRevision":"-5"'),
    TEXT.replace('"revision":"9"', '"revision":9'),
    TEXT.replace('"provenAt":', '"x":'),
    TEXT.replace('10.5.7.0-24', '10.5.7.0-99'),
    TEXT.replace('"orphans":[', '"orphans":[1,'),
    TEXT.replace('"doubts":[', '"doubts":[1,'),
    TEXT.replace('"records":[', '"records":7,"x":['),
  ]
  for (const text of broken) {
    t.throws(() => parseLeaseCache(text, WRITTEN), SyntaxError, text.slice(0, 60))
  }
  t.end()
})
