import t from 'tap'
import {
  DESTINATION_UNREACHABLE,
  MAX_ICMP_ERROR,
  NET_UNREACHABLE,
  TokenBucket,
  mayAnswerWithError,
  writeIcmpError,
} from '../../../lib/encap/icmp.js'
import { type PacketFields, ip, ipv4Packet } from '../../helpers/packets.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceChecksum } from '../../reference/checksum.js'

const TO_NOBODY: PacketFields = { source: '10.5.72.9', destination: '10.5.3.1' }

function mayAnswer(fields: Partial<PacketFields>): boolean {
  const packet = ipv4Packet({ ...TO_NOBODY, ...fields })
  return mayAnswerWithError(packet, 0, packet.length)
}

t.test('the error about a packet is this one, byte for byte', t => {
  const packet = ipv4Packet({ ...TO_NOBODY, payload: Buffer.from('ping') })
  const out = Buffer.alloc(MAX_ICMP_ERROR, 0xee)

  const length = writeIcmpError(
    out,
    ip('10.5.72.0'),
    DESTINATION_UNREACHABLE,
    NET_UNREACHABLE,
    packet,
    0,
    packet.length,
  )

  const ipv4 = '45c00034 00000000 4001d5f6 0a054800 0a054809'
  const netUnreachable = '03001e2f 00000000'
  const expected = Buffer.from(`${ipv4}${netUnreachable}`.replaceAll(' ', ''), 'hex')
  t.strictSame(out.subarray(0, length), Buffer.concat([expected, packet]))
  t.end()
})

t.test(
  'the error quotes what fits in 576 bytes, and both checksums are right',
  async t => {
    await holds(
      t,
      fc.property(fc.nat(1500), fc.nat(30), (size, start) => {
        const packet = ipv4Packet({
          ...TO_NOBODY,
          payload: new Uint8Array(size).fill(size),
        })
        const slab = Buffer.concat([Buffer.alloc(start), packet])
        const out = Buffer.alloc(MAX_ICMP_ERROR)
        const length = writeIcmpError(out, 1, 3, 0, slab, start, packet.length)
        const quoted = Math.min(packet.length, 576 - 28)
        return (
          length === 28 + quoted &&
          out.readUInt16BE(2) === length &&
          referenceChecksum(out.subarray(0, 20)) === 0 &&
          referenceChecksum(out.subarray(20, length)) === 0 &&
          out.subarray(28, length).equals(packet.subarray(0, quoted))
        )
      }),
    )
    t.end()
  },
)

t.test('only first fragments are answered', t => {
  t.ok(mayAnswer({ fragment: 0x2000 }), 'more follow')
  t.ok(mayAnswer({ fragment: 0x4000 }), 'may not be fragmented')
  t.notOk(mayAnswer({ fragment: 0x2001 }))
  t.notOk(mayAnswer({ fragment: 0x1fff }))
  t.end()
})

t.test('ICMP is answered for echoes, never for errors', t => {
  const icmp = (type: number): boolean =>
    mayAnswer({ protocol: 1, payload: Uint8Array.of(type, 0, 0, 0) })
  t.ok(icmp(8), 'echo request')
  t.ok(icmp(0), 'echo reply')
  for (const type of [3, 4, 5, 11, 12, 255]) t.notOk(icmp(type), `type ${type}`)
  t.notOk(mayAnswer({ protocol: 1 }), 'cut before its type')
  const options = new Uint8Array(8)
  t.ok(mayAnswer({ protocol: 1, options, payload: Uint8Array.of(8) }), 'behind options')
  t.notOk(mayAnswer({ protocol: 1, options, payload: Uint8Array.of(11) }))
  t.end()
})

t.test('packets from or to what is not one host are not answered', t => {
  for (const address of [
    '0.0.0.0',
    '127.0.0.1',
    '224.0.0.5',
    '240.0.0.1',
    '255.255.255.255',
  ]) {
    t.notOk(mayAnswer({ source: address }), `from ${address}`)
    t.notOk(mayAnswer({ destination: address }), `to ${address}`)
  }
  t.ok(mayAnswer({ destination: '223.255.255.255' }))
  t.end()
})

t.test('errors come in a burst, then at their rate, however long the pause was', t => {
  const bucket = new TokenBucket(10, 3)
  const taken = (now: number, tries: number): number =>
    Array.from({ length: tries }, () => bucket.take(now)).filter(Boolean).length

  t.equal(taken(1000, 9), 3)
  t.equal(taken(1099, 9), 0)
  t.equal(taken(1101, 9), 1)
  t.equal(taken(1301, 9), 2)
  t.equal(taken(9e9, 9), 3)
  t.equal(taken(5, 9), 0, 'a clock that goes back earns nothing')
  t.end()
})

t.test('no run of tries takes more than the burst and the rate allow', async t => {
  await holds(
    t,
    fc.property(fc.array(fc.nat(50), { minLength: 1, maxLength: 300 }), steps => {
      const bucket = new TokenBucket(100, 5)
      let now = 1e6
      let taken = 0
      for (const step of steps) {
        now += step
        if (bucket.take(now)) taken += 1
      }
      return taken <= 5 + ((now - 1e6) / 1000) * 100 + 1e-6
    }),
  )
})
