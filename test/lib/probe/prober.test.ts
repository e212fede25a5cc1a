import t, { type Test } from 'tap'
import type { PathReport } from '../../../lib/probe/remote-path.js'
import { type ProbeTarget, Prober } from '../../../lib/probe/prober.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { IcmpNetwork } from '../../fakes/icmp-network.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import { silent } from '../../helpers/log.js'
import { ipPacket } from '../../helpers/packets.js'

const PORT = 8285
const RATE = 10

function target(number: number, overlay = true): ProbeTarget {
  const [high, low] = [number >> 8, number & 255]
  return {
    id: `10.${high}.${low}.0/24`,
    underlay: parseAddress(`192.0.${high + 2}.${low}`),
    overlay: overlay ? parseAddress(`10.${high}.${low}.0`) : undefined,
    carrier: `UDP ${PORT}`,
    hasMtuOption: false,
  }
}

interface World {
  readonly clock: ManualClock
  readonly network: IcmpNetwork
  readonly prober: Prober
  readonly report: (number?: number) => PathReport
}

function open(t: Test, targets: readonly ProbeTarget[]): World {
  const clock = new ManualClock()
  const network = new IcmpNetwork(clock)
  const prober = new Prober({
    rate: RATE,
    longest: 1500,
    isOurs: ({ protocol, port }) => protocol === 17 && port === PORT,
    open: network.open,
    clock,
    log: silent,
  })
  prober.aimAt(targets)
  const stop = new AbortController()
  t.teardown(() => {
    stop.abort()
  })
  void prober.run(stop.signal)
  const report = (number = 2): PathReport => {
    const found = prober.report(target(number).id)
    if (found === undefined) throw new Error('no such remote')
    return found
  }
  return { clock, network, prober, report }
}

/** A datagram of ours to a remote, as an ICMP error quotes it. */
function datagram(destination: string, port = PORT): Buffer {
  const payload = Buffer.alloc(8)
  payload.writeUInt16BE(port, 2)
  return ipPacket({ source: '192.0.2.1', destination, protocol: 17, payload })
}

t.test('a way that is well', async t => {
  const { clock, network, report, prober } = open(t, [target(2)])
  network.ways.set('192.0.2.2', { roundTripMs: 3 })
  network.ways.set('10.0.2.0', { roundTripMs: 5 })
  t.equal(report().state, 'unknown')

  await clock.advance(60_000)

  t.strictSame(report(), {
    state: 'up',
    roundTripMs: 3,
    loss: 0,
    overlayRoundTripMs: 5,
    overlayLoss: 0,
    heard: null,
    pathMtu: 1500,
    trouble: null,
  })
  t.strictSame(prober.states, { unknown: 0, up: 1, silent: 0, unreachable: 0 })
})

t.test('loss is that of the latest twenty', async t => {
  const { clock, network, report } = open(t, [target(2, false)])
  network.ways.set('192.0.2.2', { roundTripMs: 3, oneLostOf: 4 })
  await clock.advance(60_000)
  t.ok((report().loss ?? 0) >= 0.2 && (report().loss ?? 0) <= 0.35, String(report().loss))
  t.equal(report().state, 'up')
  network.ways.set('192.0.2.2', { roundTripMs: 3 })
  await clock.advance(60_000)
  t.equal(report().loss, 0)
})

t.test('the longest packet is found', async t => {
  for (const mtu of [1500, 1499, 1492, 1400, 1280, 600]) {
    for (const isTold of [true, false]) {
      const { clock, network, report } = open(t, [target(2, false)])
      network.ways.set('192.0.2.2', { roundTripMs: 3, mtu, isTold })
      await clock.advance(120_000)
      const found = report().pathMtu ?? 0
      const least = isTold ? mtu : mtu - 8
      t.ok(found >= least && found <= mtu, `${mtu}${isTold ? ', told' : ''}: ${found}`)
      t.equal(report().trouble === null, mtu === 1500)
    }
  }
})

t.test('a way that changes its length is measured again', async t => {
  const { clock, network, report } = open(t, [target(2, false)])
  for (const mtu of [1500, 1400, 1500]) {
    network.ways.set('192.0.2.2', { roundTripMs: 3, mtu, isTold: true })
    await clock.advance(60_000)
    t.equal(report().pathMtu, mtu)
  }
})

t.test('long packets that are lost by chance make no smaller way', async t => {
  const { clock, network, report } = open(t, [target(2, false)])
  network.ways.set('192.0.2.2', { roundTripMs: 3, oneLostOf: 7 })
  for (let minute = 0; minute < 20; minute += 1) {
    await clock.advance(60_000)
    t.equal(report().pathMtu, 1500)
  }
})

t.test('what does not answer is told apart', async t => {
  const remotes = [2, 3, 4].map(number => target(number))
  const { clock, network, report, prober } = open(t, [...remotes, target(5, false)])
  // 2 answers on the underlay alone, 3 through the overlay alone, 4 and 5 nowhere.
  network.ways.set('192.0.2.2', { roundTripMs: 3 })
  network.ways.set('10.0.3.0', { roundTripMs: 3 })
  await clock.advance(20_000)
  t.strictSame(
    [2, 3, 4, 5].map(number => report(number).state),
    ['silent', 'up', 'unreachable', 'unreachable'],
  )
  t.match(report(2).trouble, 'nothing through the overlay: a firewall drops UDP 8285')
  t.equal(report(3).trouble, null)
  t.match(report(4).trouble, '192.0.2.4 does not answer')
  t.strictSame(prober.states, { unknown: 0, up: 1, silent: 1, unreachable: 2 })
})

t.test('an error about our packets says why', async t => {
  const { clock, network, report } = open(t, [target(2), target(3)])
  for (const host of ['192.0.2.2', '192.0.2.3'])
    network.ways.set(host, { roundTripMs: 3 })
  await clock.advance(20_000)
  const told = (type: number, code: number, quoted: Buffer): string | null => {
    network.tell(type, code, 0, quoted, '192.0.2.2')
    return report().trouble
  }
  t.match(told(3, 3, datagram('192.0.2.2')), 'nobody listens on UDP 8285 of 192.0.2.2')
  t.match(told(3, 13, datagram('192.0.2.2')), 'a firewall on the way to 192.0.2.2')
  t.match(told(3, 1, datagram('192.0.2.2')), '192.0.2.2 cannot be reached')
  t.match(report(3).trouble, 'nothing through the overlay', 'the other is another')

  network.ways.set('10.0.2.0', { roundTripMs: 3 })
  await clock.advance(10_000)
  t.equal(report().trouble, null, 'an answer is more than an error')
  network.ways.delete('10.0.2.0')
  await clock.advance(20_000)
  t.match(report().trouble, 'nothing through the overlay', 'and the error is forgotten')
  t.match(
    told(3, 3, datagram('192.0.2.2', 53)),
    'nothing through the overlay',
    'as is one about packets that are not ours',
  )
})

t.test('a thousand remotes get no more than the rate', async t => {
  const remotes = Array.from({ length: 1000 }, (_, index) => target(index + 256))
  const { clock, network, prober } = open(t, remotes)
  await clock.advance(200_000)
  const sent = network.sent.length
  t.ok(sent <= 200 * RATE + 1 && sent > 190 * RATE, `${sent} packets in 200 s`)
  t.equal(prober.sentCount, sent)
  const each = new Set(network.sent.slice(0, 1000).map(({ to }) => to))
  t.equal(each.size, 1000, 'and each its turn')
})

t.test('a remote that is new is asked first, one that is gone no more', async t => {
  const { clock, network, prober, report } = open(t, [target(2)])
  network.ways.set('192.0.2.2', { roundTripMs: 3 })
  await clock.advance(10_000)
  prober.aimAt([target(2), target(3)])
  t.not(report(2).roundTripMs, null, 'what is known stays')
  network.sent.length = 0
  await clock.advance(1000)
  t.equal(network.sent[0]?.to, '192.0.2.3')
  prober.aimAt([target(3)])
  t.equal(prober.report(target(2).id), undefined)
  await clock.advance(10_000)
  network.sent.length = 0
  await clock.advance(10_000)
  t.notOk(network.sent.some(({ to }) => to === '192.0.2.2'))
})

t.test('where no raw socket can be opened, the daemon goes on and says why', async t => {
  const clock = new ManualClock()
  const prober = new Prober({
    rate: RATE,
    longest: 1500,
    isOurs: () => false,
    open: () => Promise.reject(new Error('raw-socket is not there')),
    clock,
    log: silent,
  })
  await prober.run(new AbortController().signal)
  t.equal(prober.trouble, 'raw-socket is not there')
})
