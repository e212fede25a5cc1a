import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { DROP_REASONS } from '../../../lib/encap/drops.js'
import {
  type ForwardingState,
  VERIFY_MODES,
} from '../../../lib/encap/forwarding-table.js'
import {
  FRAME_HEADER,
  FrameReader,
  MAX_PAYLOAD,
  PATH_PROTOCOL,
  PathMessage,
  TRAFFIC_COUNTERS,
  type Traffic,
  decodeForwarding,
  decodeHello,
  decodePermit,
  decodeStatistics,
  encodeForwarding,
  encodeFrame,
  encodeHello,
  encodePermit,
  encodeStatistics,
  zeroTraffic,
} from '../../../lib/encap/path-control.js'
import { ip, range } from '../../helpers/packets.js'
import { fc, holds } from '../../helpers/property.js'

const uint32 = fc.integer({ min: 0, max: 0xffffffff })
const OWN_OBJECTS = { noNullPrototype: true }
const address = fc
  .constantFrom(4, 16)
  .chain(size => fc.uint8Array({ minLength: size, maxLength: size }))
const addressRange = address.chain(bytes =>
  fc.record(
    { address: fc.constant(bytes), length: fc.nat(8 * bytes.length) },
    OWN_OBJECTS,
  ),
)

const forwardingState: fc.Arbitrary<ForwardingState> = fc.record(
  {
    families: fc.array(
      fc.record({ network: addressRange, subnet: addressRange }, OWN_OBJECTS),
      { maxLength: 2 },
    ),
    verify: fc.constantFrom(...VERIFY_MODES),
    copyDscp: fc.boolean(),
    hops: fc.array(
      fc.record(
        {
          subnets: fc.array(addressRange, { maxLength: 2 }),
          address,
          port: fc.nat(0xffff),
          carriesEcn: fc.boolean(),
          sources: fc.array(address, { maxLength: 4 }),
        },
        OWN_OBJECTS,
      ),
      { maxLength: 50 },
    ),
  },
  OWN_OBJECTS,
)

t.test('what is decoded is what was encoded', async t => {
  await holds(
    t,
    fc.property(forwardingState, state => {
      return isDeepStrictEqual(decodeForwarding(encodeForwarding(state)), state)
    }),
  )
  await holds(
    t,
    fc.property(uint32, fc.string({ unit: 'grapheme' }), (pid, label) => {
      const hello = { protocol: PATH_PROTOCOL, pid, label }
      return isDeepStrictEqual(decodeHello(encodeHello(hello)), hello)
    }),
  )
  await holds(
    t,
    fc.property(fc.double(), until => {
      return Object.is(decodePermit(encodePermit(until)), until)
    }),
  )
})

t.test('statistics come back with their names', t => {
  const traffic = Object.fromEntries(
    TRAFFIC_COUNTERS.map((name, index) => [name, 2 ** 40 + index]),
  ) as Traffic
  const drops = Float64Array.from(DROP_REASONS, (_, index) => index * 3)
  const offenders = [
    { reason: 9, outer: ip('192.0.2.1'), inner: ip('fd00::1'), count: 2 ** 33 },
    { reason: 1, outer: ip('::1'), inner: new Uint8Array(0), count: 1 },
  ]

  const decoded = decodeStatistics(encodeStatistics(traffic, drops, offenders))

  t.strictSame(decoded.traffic, traffic)
  t.equal(decoded.drops.wrongDestination, 30)
  t.strictSame(decoded.offenders, offenders)
  t.end()
})

t.test('a path of another version may count more or fewer things', t => {
  const fewer = decodeStatistics(encodeStatistics(zeroTraffic(), new Float64Array(2), []))
  t.equal(fewer.drops.writeFailed, 0)
  const many = new Float64Array(40).fill(7)
  const more = decodeStatistics(encodeStatistics(zeroTraffic(), many, []))
  t.equal(more.drops.writeFailed, 7)
  t.strictSame(Object.keys(more.drops), DROP_REASONS)
  t.end()
})

t.test('any bytes decode to something or throw RangeError', async t => {
  const decoders = [decodeHello, decodePermit, decodeForwarding, decodeStatistics]
  await holds(
    t,
    fc.property(fc.uint8Array({ maxLength: 200 }), bytes => {
      for (const decode of decoders) {
        try {
          decode(Buffer.from(bytes))
        } catch (error) {
          if (!(error instanceof RangeError)) throw error
        }
      }
    }),
    { numRuns: 5000 },
  )
})

const HOP = {
  subnets: [range('10.5.1.0/24')],
  address: ip('192.0.2.1'),
  port: 1,
  sources: ['192.0.2.2', '192.0.2.3', '192.0.2.4', '192.0.2.5'].map(ip),
  carriesEcn: true,
}
const STATE: ForwardingState = {
  families: [{ network: range('10.5.0.0/16'), subnet: range('10.5.72.0/24') }],
  verify: 'strict',
  copyDscp: false,
  hops: [HOP],
}

t.test('a forwarding state that is cut, longer or out of bounds is refused', t => {
  const good = encodeForwarding(STATE)
  for (let length = 0; length < good.length; length++) {
    const cut = good.subarray(0, length)
    t.throws(() => decodeForwarding(cut), RangeError, `${length} bytes`)
  }
  t.throws(() => decodeForwarding(Buffer.concat([good, Buffer.alloc(1)])), RangeError)
  const withByte = (at: number, value: number): Buffer => {
    const bytes = Buffer.from(good)
    bytes[at] = value
    return bytes
  }
  t.throws(() => decodeForwarding(withByte(0, 3)), RangeError, 'verify mode')
  t.throws(() => decodeForwarding(withByte(3, 5)), RangeError, 'bytes of an address')
  t.throws(() => decodeForwarding(withByte(8, 33)), RangeError, 'network length')
  t.throws(
    () => decodeForwarding(withByte(15, 255)),
    RangeError,
    'four thousand million hops',
  )
  t.end()
})

t.test('statistics that are cut are refused', t => {
  const offenders = [
    { reason: 1, outer: ip('192.0.2.1'), inner: ip('10.5.1.1'), count: 1 },
  ]
  const good = encodeStatistics(zeroTraffic(), new Float64Array(3), offenders)
  const withoutOffender = good.length - 19
  for (let length = 0; length < good.length; length++) {
    if (length === withoutOffender) continue
    const cut = good.subarray(0, length)
    t.throws(() => decodeStatistics(cut), RangeError, `${length} bytes`)
  }
  t.end()
})

t.test('frames come out whole, however the stream was chopped up', async t => {
  await holds(
    t,
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 20 }),
      (payloads, sizes) => {
        const stream = Buffer.concat(
          payloads.map(payload => encodeFrame(PathMessage.hello, payload)),
        )
        const reader = new FrameReader()
        const frames = []
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const size = sizes[turn % sizes.length]!
          frames.push(...reader.push(stream.subarray(at, at + size)))
          at += size
        }
        return isDeepStrictEqual(
          frames.map(frame => [frame.type, [...frame.payload]]),
          payloads.map(payload => [PathMessage.hello, [...payload]]),
        )
      },
    ),
  )
})

t.test('the largest frame passes; a larger one is refused before it arrives', t => {
  const reader = new FrameReader()
  const frame = encodeFrame(PathMessage.forwarding, new Uint8Array(MAX_PAYLOAD))
  t.strictSame(reader.push(frame.subarray(0, MAX_PAYLOAD)), [])
  t.equal(reader.push(frame.subarray(MAX_PAYLOAD))[0]?.payload.length, MAX_PAYLOAD)

  const head = Buffer.alloc(FRAME_HEADER)
  head.writeUInt32BE(MAX_PAYLOAD + 1)
  t.throws(
    () => reader.push(head),
    new RangeError(`control frame of ${MAX_PAYLOAD + 1} bytes`),
  )
  t.end()
})

t.test('the state of 65,536 remotes with all their sources fits into a frame', t => {
  const hops = Array.from({ length: 65_536 }, () => HOP)
  t.ok(encodeForwarding({ ...STATE, hops }).length <= MAX_PAYLOAD)
  t.end()
})
