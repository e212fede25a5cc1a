import t from 'tap'
import { DROP_REASONS, Drop, DropLedger } from '../../../lib/encap/drops.js'
import { checkInbound, routeOutbound } from '../../../lib/encap/forward.js'
import {
  ForwardingTable,
  VERIFY_MODES,
  type VerifyMode,
} from '../../../lib/encap/forwarding-table.js'
import {
  type PacketFields,
  ip,
  ipPacket,
  ipv4Packet,
  resum,
} from '../../helpers/packets.js'
import { STATE } from '../../helpers/forwarding-state.js'
import { allocatedBy } from '../../helpers/heap.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceInbound, referenceOutbound } from '../../reference/forwarding.js'

const GOOD: PacketFields = {
  source: '10.5.1.9',
  destination: '10.5.72.9',
  payload: Buffer.from('payload'),
}

function tableWith(verify: VerifyMode = 'strict'): ForwardingTable {
  return new ForwardingTable({ ...STATE, verify })
}

/** The verdict on a datagram in words: `to 0` or the drop reason. */
function judge(datagram: Uint8Array, outer: string, verify?: VerifyMode): string {
  return words(verdictOn(datagram, 0, datagram.length, ip(outer), tableWith(verify)))
}

function verdictOn(
  slab: Uint8Array,
  start: number,
  length: number,
  outer: Uint8Array,
  table: ForwardingTable,
): number {
  return checkInbound(slab, start, length, outer, 0, outer.length, table)
}

function route(packet: Uint8Array): string {
  return words(routeOutbound(packet, 0, packet.length, tableWith()))
}

function words(verdict: number): string {
  return verdict < 0 ? DROP_REASONS[-verdict]! : `to ${verdict}`
}

function changed(change: (packet: Uint8Array) => void, fields = GOOD): Uint8Array {
  const packet = ipv4Packet(fields)
  change(packet)
  return packet
}

t.test('a packet from the TUN goes to the remote that holds its destination', t => {
  t.equal(route(ipv4Packet({ source: '10.5.72.9', destination: '10.5.1.9' })), 'to 0')
  t.equal(route(ipv4Packet({ source: '10.5.72.9', destination: '10.5.2.255' })), 'to 1')
  t.end()
})

t.test('a packet from the TUN that nobody can take is dropped with the reason', t => {
  const packet = ipv4Packet({ source: '10.5.72.9', destination: '10.5.3.1' })
  t.equal(route(packet), 'noRoute')
  t.equal(route(packet.subarray(0, 19)), 'tooShort')
  t.equal(route(new Uint8Array(0)), 'tooShort')
  t.equal(route(changed(bytes => (bytes[0] = 0x75))), 'notIp')
  t.end()
})

t.test("nothing is sent from an address of another host's subnet", t => {
  const from = (source: string): string =>
    route(ipv4Packet({ source, destination: '10.5.1.9' }))
  t.equal(from('10.5.2.9'), 'foreignSource')
  t.equal(from('10.5.73.1'), 'foreignSource', 'a subnet that we had once, perhaps')
  t.equal(from('192.168.0.9'), 'to 0', 'what is routed through us is for others to judge')
  t.end()
})

t.test('a datagram is taken from the remote that holds its source', t => {
  t.equal(judge(ipv4Packet(GOOD), '192.0.2.1'), 'to 0')
  t.equal(
    judge(ipv4Packet(GOOD), '198.51.100.1'),
    'to 0',
    'a source that its record lists',
  )
  t.equal(judge(ipv4Packet({ ...GOOD, source: '10.5.2.1' }), '192.0.2.2'), 'to 1')
  t.equal(judge(ipv4Packet({ ...GOOD, destination: '10.5.72.0' }), '192.0.2.1'), 'to 0')
  t.end()
})

t.test('a datagram is taken at the smallest size, an odd one, and with options', t => {
  const none = { ...GOOD, payload: new Uint8Array(0) }
  t.equal(judge(ipv4Packet(none), '192.0.2.1'), 'to 0', '20 bytes')
  t.equal(
    judge(ipv4Packet({ ...GOOD, payload: new Uint8Array(1) }), '192.0.2.1'),
    'to 0',
    '21',
  )
  const options = new Uint8Array(40).fill(1)
  t.equal(judge(ipv4Packet({ ...GOOD, options }), '192.0.2.1'), 'to 0', 'IHL 15')
  t.end()
})

t.test('a datagram that is not one whole sound IPv4 packet is dropped', t => {
  const judged = (datagram: Uint8Array): string => judge(datagram, '192.0.2.1')
  const whole = ipv4Packet(GOOD)
  t.equal(judged(new Uint8Array(0)), 'tooShort')
  t.equal(judged(whole.subarray(0, 19)), 'tooShort')
  t.equal(judged(changed(bytes => (bytes[0] = 0x55))), 'notIp')
  t.equal(judged(whole.subarray(0, whole.length - 1)), 'badHeader', 'cut on the way')
  t.equal(judged(Buffer.concat([whole, Buffer.alloc(1)])), 'badHeader', 'padded')
  t.equal(judged(changed(bytes => (bytes[8]! ^= 1))), 'badHeader', 'checksum')
  const short = changed(bytes => {
    bytes[0] = 0x44
    resum(bytes)
  })
  t.equal(judged(short), 'badHeader', 'IHL 4')
  const long = changed(
    bytes => {
      bytes[0] = 0x4f
    },
    { ...GOOD, payload: new Uint8Array(0) },
  )
  t.equal(judged(long), 'badHeader', 'IHL beyond the datagram')
  t.end()
})

t.test('strict takes a source only from an address of its holder', t => {
  const packet = ipv4Packet(GOOD)
  t.equal(judge(packet, '192.0.2.2', 'strict'), 'wrongSource', 'another remote')
  t.equal(judge(packet, '203.0.113.9', 'strict'), 'unknownSender')
  t.equal(judge(packet, '0.0.0.0', 'strict'), 'unknownSender')
  const free = ipv4Packet({ ...GOOD, source: '10.5.3.1' })
  t.equal(judge(free, '192.0.2.1', 'strict'), 'wrongSource', 'a subnet nobody holds')
  const ours = ipv4Packet({ ...GOOD, source: '10.5.72.9' })
  t.equal(judge(ours, '192.0.2.1', 'strict'), 'wrongSource', 'our own subnet')
  t.equal(judge(ours, '203.0.113.9', 'strict'), 'unknownSender')
  t.end()
})

t.test('inner takes a source in any remote subnet from anywhere', t => {
  t.equal(judge(ipv4Packet(GOOD), '203.0.113.9', 'inner'), 'to 0')
  const outside = ipv4Packet({ ...GOOD, source: '8.8.8.8' })
  t.equal(judge(outside, '192.0.2.1', 'inner'), 'wrongSource')
  t.end()
})

t.test('off takes any source, but still only sound packets to our subnet', t => {
  const outside = { ...GOOD, source: '8.8.8.8' }
  t.equal(judge(ipv4Packet(outside), '203.0.113.9', 'off'), 'to 0')
  const elsewhere = ipv4Packet({ ...outside, destination: '10.5.1.1' })
  t.equal(judge(elsewhere, '203.0.113.9', 'off'), 'wrongDestination')
  t.equal(
    judge(
      changed(bytes => (bytes[8]! ^= 1)),
      '203.0.113.9',
      'off',
    ),
    'badHeader',
  )
  t.end()
})

t.test('no mode lets a packet through to an address outside our subnet', t => {
  for (const verify of VERIFY_MODES) {
    for (const destination of ['10.5.73.0', '10.5.71.255', '8.8.8.8', '127.0.0.1']) {
      const packet = ipv4Packet({ ...GOOD, destination })
      t.equal(judge(packet, '192.0.2.1', verify), 'wrongDestination', verify)
    }
  }
  t.end()
})

const outerAddress = fc.oneof(
  fc.constantFrom(
    '192.0.2.1',
    '192.0.2.2',
    '198.51.100.1',
    '0.0.0.0',
    '2001:db8::1',
    '::',
  ),
  fc.ipV4(),
)
const ipv4Address = fc.oneof(
  fc.constantFrom('10.5.1.0', '10.5.1.255', '10.5.2.7', '10.5.72.0', '10.5.72.255'),
  fc.constantFrom('10.5.73.0', '0.0.0.0'),
  fc.ipV4(),
)
const ipv6Address = fc.oneof(
  fc.constantFrom('fd00:5:0:1::', 'fd00:5:0:1:ffff:ffff:ffff:ffff', 'fd00:5:0:2::7'),
  fc.constantFrom(
    'fd00:5:0:72::',
    'fd00:5:0:72::9',
    'fd00:5:0:73::1',
    'fd00:5:1::',
    '::',
  ),
)
const addresses = fc.oneof(
  fc.record({ source: ipv4Address, destination: ipv4Address }),
  fc.record({ source: ipv6Address, destination: ipv6Address }),
)

/** Sound packets with a byte or two changed, cut or padded: near every edge of the checks. */
const datagram = fc
  .record({
    addresses,
    payload: fc.uint8Array({ maxLength: 40 }),
    options: fc.constantFrom(0, 4, 40).map(length => new Uint8Array(length)),
    flips: fc.array(fc.tuple(fc.nat(30), fc.nat(255)), { maxLength: 2 }),
    resummed: fc.boolean(),
    cut: fc.constantFrom(0, 0, 0, 1, 2, 20),
  })
  .map(({ addresses: ends, flips, resummed, cut, ...fields }) => {
    const packet = ipPacket({ ...ends, ...fields })
    for (const [at, value] of flips) if (at < packet.length) packet[at]! ^= value
    const isIpv4 = packet[0]! >> 4 === 4
    if (isIpv4 && resummed && (packet[0]! & 15) * 4 <= packet.length) resum(packet)
    return packet.subarray(0, Math.max(0, packet.length - cut))
  })

t.test('every verdict equals that of the rules read one by one', async t => {
  const seen = new Set<string>()
  await holds(
    t,
    fc.property(
      fc.oneof({ weight: 9, arbitrary: datagram }, fc.uint8Array({ maxLength: 60 })),
      outerAddress,
      fc.constantFrom(...VERIFY_MODES),
      fc.nat(7),
      (bytes, outer, verify, start) => {
        const slab = Buffer.concat([Buffer.alloc(start, 0x45), bytes])
        const before = Buffer.from(slab)
        const state = { ...STATE, verify }
        const table = tableWith(verify)
        const verdict = verdictOn(slab, start, bytes.length, ip(outer), table)
        const expected = referenceInbound(state, bytes, ip(outer))
        seen.add(String(expected))
        return (
          slab.equals(before) &&
          verdict === (typeof expected === 'string' ? -Drop[expected] : expected)
        )
      },
    ),
    { numRuns: 20_000 },
  )
  t.strictSame(
    [...seen].sort(),
    ['0', '1', 'badHeader', 'notIp', 'tooShort']
      .concat(['unknownSender', 'wrongDestination', 'wrongSource'])
      .sort(),
    'the packets reach every verdict',
  )
})

t.test('a route from the TUN equals a linear scan on any bytes', async t => {
  await holds(
    t,
    fc.property(fc.oneof(datagram, fc.uint8Array({ maxLength: 30 })), bytes => {
      return VERIFY_MODES.every(verify => {
        const verdict = routeOutbound(bytes, 0, bytes.length, tableWith(verify))
        const expected = referenceOutbound({ ...STATE, verify }, bytes)
        return (verdict < 0 ? DROP_REASONS[-verdict] : verdict) === expected
      })
    }),
    { numRuns: 5000 },
  )
})

t.test('packets of IPv6 go by the same rules', t => {
  const good = { source: 'fd00:5:0:1::9', destination: 'fd00:5:0:72::9' }
  t.equal(judge(ipPacket(good), '192.0.2.1'), 'to 0')
  t.equal(judge(ipPacket(good), '192.0.2.2'), 'wrongSource')
  t.equal(judge(ipPacket(good), '203.0.113.9'), 'unknownSender')
  const elsewhere = { ...good, destination: 'fd00:5:0:73::9' }
  t.equal(judge(ipPacket(elsewhere), '192.0.2.1'), 'wrongDestination')
  t.equal(judge(ipPacket(good).subarray(0, 39), '192.0.2.1'), 'tooShort')
  t.equal(
    judge(Buffer.concat([ipPacket(good), Buffer.alloc(1)]), '192.0.2.1'),
    'badHeader',
  )
  const out = { source: good.destination, destination: 'fd00:5:0:2::1' }
  t.equal(route(ipPacket(out)), 'to 1')
  t.equal(route(ipPacket({ ...out, destination: 'fd00:5:0:3::1' })), 'noRoute')
  t.equal(route(ipPacket({ ...out, source: 'fd00:5:0:3::1' })), 'foreignSource')
  t.end()
})

t.test('a family that the network does not have goes nowhere', t => {
  const table = new ForwardingTable({ ...STATE, families: STATE.families.slice(0, 1) })
  const out = ipPacket({ source: 'fd00:5:0:72::1', destination: 'fd00:5:0:1::1' })
  const back = ipPacket({ source: 'fd00:5:0:1::1', destination: 'fd00:5:0:72::1' })
  t.equal(words(routeOutbound(out, 0, out.length, table)), 'noRoute')
  const outer = ip('192.0.2.1')
  t.equal(words(verdictOn(back, 0, back.length, outer, table)), 'wrongDestination')
  t.end()
})

function blame(ledger: DropLedger, reason: number, outer: string, inner: string): void {
  const [from, claimed] = [ip(outer), inner === '' ? new Uint8Array(0) : ip(inner)]
  ledger.blame(reason, from, 0, from.length, claimed, 0, claimed.length)
}

t.test(
  'drops are counted by reason, and senders are remembered with what they did',
  t => {
    const ledger = new DropLedger(3)
    ledger.count(Drop.noRoute)
    ledger.count(Drop.sendFailed, 64)
    blame(ledger, Drop.wrongSource, '192.0.2.1', '10.5.9.9')
    blame(ledger, Drop.wrongSource, '192.0.2.1', '10.5.9.9')
    blame(ledger, Drop.unknownSender, '2001:db8::1', 'fd00::1')
    blame(ledger, Drop.tooShort, '192.0.2.1', '')

    t.equal(ledger.counts[Drop.noRoute], 1)
    t.equal(ledger.counts[Drop.sendFailed], 64)
    t.equal(ledger.counts[Drop.wrongSource], 2)
    t.strictSame(ledger.offenders(), [
      {
        reason: Drop.wrongSource,
        outer: ip('192.0.2.1'),
        inner: ip('10.5.9.9'),
        count: 2,
      },
      {
        reason: Drop.unknownSender,
        outer: ip('2001:db8::1'),
        inner: ip('fd00::1'),
        count: 1,
      },
      {
        reason: Drop.tooShort,
        outer: ip('192.0.2.1'),
        inner: new Uint8Array(0),
        count: 1,
      },
    ])
    t.end()
  },
)

t.test(
  'a sender that forges addresses pushes out the oldest offender and no counter',
  t => {
    const ledger = new DropLedger(4)
    for (let inner = 1; inner <= 250; inner++)
      blame(ledger, Drop.wrongSource, '192.0.2.1', `10.5.9.${inner}`)

    t.equal(ledger.counts[Drop.wrongSource], 250)
    const inners = ledger.offenders().map(offender => offender.inner[3])
    t.strictSame(inners.sort(), [247, 248, 249, 250])
    t.end()
  },
)

t.test('a million packets, good and bad, leave nothing on the heap', t => {
  const table = tableWith()
  const ledger = new DropLedger()
  const inbound = ipv4Packet(GOOD)
  const outbound = ipv4Packet({ source: '10.5.72.9', destination: '10.5.2.9' })
  const forged = ipv4Packet({ ...GOOD, source: '10.5.9.9' })
  const good = ip('192.0.2.1')
  const stranger = ip('203.0.113.9')
  let delivered = 0
  const carry = (): void => {
    if (routeOutbound(outbound, 0, outbound.length, table) === 1) delivered += 1
    if (verdictOn(inbound, 0, inbound.length, good, table) === 0) delivered += 1
    const verdict = verdictOn(forged, 0, forged.length, stranger, table)
    ledger.blame(-verdict, stranger, 0, 4, forged, 12, 4)
  }

  const bytes = allocatedBy(carry, 1_000_000)

  t.ok(delivered >= 2_000_000, `${delivered} delivered`)
  t.equal(ledger.counts[Drop.unknownSender], delivered / 2)
  t.ok(bytes < 500_000, `${bytes} bytes for 3,000,000 decisions`)
  t.end()
})
