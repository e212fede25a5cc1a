import t from 'tap'
import { html } from '../../../cmd/flanneld/status-page/html.js'
import { renderPage } from '../../../cmd/flanneld/status-page/page.js'
import {
  TrafficHistory,
  parseDeviceCounters,
} from '../../../cmd/flanneld/status-page/traffic-history.js'
import { usagePicture } from '../../../cmd/flanneld/status-page/usage-picture.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'

t.test('values are text and no markup', t => {
  t.equal(
    html`<p title="${'"'}">${'<b>&'}</p>`.text,
    '<p title="&quot;">&lt;b&gt;&amp;</p>',
  )
  t.equal(html`<b>${[html`<i></i>`, html`<u></u>`]}</b>`.text, '<b><i></i><u></u></b>')
  const page = renderPage({
    hostname: '<script>alert(1)</script>',
    version: '1',
    status: {
      pid: 1,
      phase: 'waiting',
      waitingFor: '<img src=x>',
      etcdReachable: false,
      troubles: {},
      notes: {},
      ignoredRecords: [],
    },
    rates: [],
    events: [{ at: '2026-01-01T00:00:00Z', event: '<i>', subnet: '<u>' }],
    routes: [],
    now: new Date(0),
  })
  t.notMatch(page, /<script|<img|<i>|<u>/)
  t.match(page, /id="state">\s*waiting\s*</)
  t.match(page, 'no subnet yet')
  t.end()
})

t.test('a network with more subnets than squares', t => {
  const slots = [
    { range: parsePrefix('10.0.0.0/24'), state: 'up' as const, text: 'first' },
    { range: parsePrefix('10.0.1.0/24'), state: 'silent' as const, text: 'second' },
    { range: parsePrefix('10.255.255.0/24'), state: 'own' as const, text: 'last' },
    { range: parsePrefix('192.0.2.0/24'), state: 'up' as const, text: 'elsewhere' },
  ]
  const { text } = usagePicture(parsePrefix('10.0.0.0/8'), 24, slots)
  const squares = Array.from(
    text.matchAll(/<rect\s+class="(\w+)"[^>]*>\s*<title>([^<]*)/g),
  )
  t.equal(squares.length, 1024)
  t.same(squares[0]?.slice(1), ['silent', 'first\nsecond'], 'the worst of several')
  t.same(squares[1]?.slice(1), ['free', '10.0.64.0/18: free'])
  t.same(squares[1023]?.slice(1), ['own', 'last'])
  t.notMatch(text, 'elsewhere')
  t.end()
})

t.test('a network of one subnet, and one of IPv6', t => {
  const own = { range: parsePrefix('10.5.1.0/24'), state: 'own' as const, text: 'own' }
  const { text } = usagePicture(parsePrefix('10.5.1.0/24'), 24, [own])
  t.equal(Array.from(text.matchAll(/<rect\s/g)).length, 1)
  const six = { range: parsePrefix('fd00:0:0:1::/64'), state: 'up' as const, text: 'six' }
  const picture = usagePicture(parsePrefix('fd00::/48'), 64, [six]).text
  t.equal(Array.from(picture.matchAll(/<rect\s/g)).length, 1024)
  t.match(picture, /<rect\s+class="up"[^>]*>\s*<title>six/)
  t.end()
})

t.test('rates between looks', t => {
  const history = new TrafficHistory()
  const counters = (n: number): Parameters<TrafficHistory['note']>[1] => ({
    sentBytes: 1000 * n,
    sentPackets: 10 * n,
    receivedBytes: 500 * n,
    receivedPackets: 5 * n,
  })
  history.note('flannel0', counters(1), 0)
  t.same(history.rates, [], 'one reading is no rate')
  history.note('flannel0', counters(2), 100)
  t.same(history.rates, [], 'nor are two at the same moment')
  history.note('flannel0', counters(5), 2000)
  const rate = {
    sentBytes: 2000,
    sentPackets: 20,
    receivedBytes: 1000,
    receivedPackets: 10,
  }
  t.same(history.rates, [{ atMs: 2000, ...rate }])
  history.note('flannel0', counters(1), 4000)
  t.same(history.rates, [], 'a device made anew begins at nothing')
  for (let n = 1; n < 400; n++) history.note('flannel0', counters(n), 4000 + 1000 * n)
  t.ok(history.rates.length <= 150, 'bounded')
  history.note('flannel.1', counters(500), 500_000)
  t.same(history.rates, [], 'another device')
  t.end()
})

t.test('/proc/net/dev', t => {
  const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
flannel0: 2000      20    0    0    0     0          0         0     3000      30    0    0    0     0       0          0
`
  t.same(parseDeviceCounters(text, 'flannel0'), {
    sentBytes: 3000,
    sentPackets: 30,
    receivedBytes: 2000,
    receivedPackets: 20,
  })
  t.equal(parseDeviceCounters(text, 'flannel'), undefined)
  t.end()
})
