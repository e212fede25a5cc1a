import t from 'tap'
import {
  internetChecksum,
  sumPseudoHeader,
  sumWords,
} from '../../../lib/encap/checksum.js'
import { allocatePackets } from '../../../lib/encap/packet-memory.js'
import { carryCongestion } from '../../../lib/encap/ecn.js'
import { trafficClassOf } from '../../../lib/encap/ip.js'
import { ipPacket, pseudoHeader, transportOf } from '../../helpers/packets.js'
import {
  readUint16,
  readUint32,
  writeUint16,
  writeUint32,
} from '../../../lib/encap/bytes.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceChecksum } from '../../reference/checksum.js'

function bytes(hex: string): Uint8Array {
  return Buffer.from(hex.replaceAll(' ', ''), 'hex')
}

t.test('the checksum is that of the examples of RFC 1071 and of a real header', t => {
  t.equal(internetChecksum(bytes('0001 f203 f4f5 f6f7'), 0, 8), 0xffff - 0xddf2)
  const header = bytes('4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7')
  t.equal(internetChecksum(header, 0, 20), 0xb861)
  t.end()
})

t.test('the checksum over a header with its own right checksum is 0', t => {
  const header = bytes('4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7')
  t.equal(internetChecksum(header, 0, 20), 0)
  t.end()
})

t.test('the checksum of nothing, of one byte, and of the worst case', t => {
  t.equal(internetChecksum(new Uint8Array(0), 0, 0), 0xffff)
  t.equal(internetChecksum(bytes('12'), 0, 1), 0xffff - 0x1200)
  const worst = new Uint8Array(65_535).fill(0xff)
  t.equal(internetChecksum(worst, 0, worst.length), referenceChecksum(worst))
  t.end()
})

t.test('the checksum equals the slow one on any bytes at any start', async t => {
  await holds(
    t,
    fc.property(
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(40),
      fc.nat(40),
      (slab, front, back) => {
        const start = Math.min(front, slab.length)
        const length = Math.max(0, slab.length - start - back)
        const expected = referenceChecksum(slab.subarray(start, start + length))
        return internetChecksum(slab, start, length) === expected
      },
    ),
    { numRuns: 5000 },
  )
})

t.test('numbers are read as written, in network order and unsigned', async t => {
  const packet = new Uint8Array(8)
  writeUint32(packet, 1, 0xfffefdfc)
  t.same([...packet], [0, 0xff, 0xfe, 0xfd, 0xfc, 0, 0, 0])
  await holds(
    t,
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), fc.nat(4), (value, start) => {
      writeUint32(packet, start, value)
      if (readUint32(packet, start) !== value) return false
      writeUint16(packet, start, value % 0x10000)
      return readUint16(packet, start) === value % 0x10000
    }),
  )
})

t.test(
  'the sums by SIMD and without it equal the slow one, everywhere in the memory',
  async t => {
    const simd = allocatePackets(70_000)
    const plain = {
      bytes: new Uint8Array(70_000),
      sum: (start: number, length: number) => sumWords(plain.bytes, start, length),
    }
    const memories = [simd, plain]
    await holds(
      t,
      fc.property(
        fc.uint8Array({ maxLength: 2000, size: 'max' }),
        fc.nat(60_000),
        (content, start) => {
          const expected = 0xffff - referenceChecksum(content)
          return memories.every(({ bytes, sum }) => {
            bytes.fill(0xa5)
            bytes.set(content, start)
            const found = sum(start, content.length)
            // 0 and 0xffff are the same sum, of nothing and of something.
            return found === expected || (found === 0 && content.length === 0)
          })
        },
      ),
    )
    for (const { bytes, sum } of memories) {
      bytes.fill(0xff)
      t.equal(sum(1, 65_535), 0xff00, 'the largest packet of the largest bytes')
    }
  },
)

t.test('the sum of a pseudo-header is that of its bytes', async t => {
  await holds(
    t,
    fc.property(
      fc.constantFrom(['10.5.1.2', '10.5.255.3'], ['fd00::1', 'fd00:ffff::9']),
      fc.nat(1400),
      fc.constantFrom(6, 17),
      ([source = '', destination = ''], size, protocol) => {
        const payload = new Uint8Array(size)
        const packet = ipPacket({ source, destination, protocol, payload })
        const version = packet[0]! >> 4
        const length = packet.length - transportOf(packet)
        const sum = sumPseudoHeader(packet, 0, version, protocol, length)
        return sum === 0xffff - referenceChecksum(pseudoHeader(packet))
      },
    ),
  )
})

t.test('a congestion mark comes into a packet that can carry it (RFC 6040)', t => {
  for (const [source, destination] of [
    ['10.5.1.2', '10.5.2.3'],
    ['fd00::1', 'fd00::2'],
  ] as const) {
    for (let trafficClass = 0; trafficClass < 256; trafficClass++) {
      const packet = ipPacket({ source, destination, trafficClass })
      const marked = ipPacket({ source, destination, trafficClass: trafficClass | 3 })
      const canCarry = (trafficClass & 3) !== 0

      t.equal(trafficClassOf(packet, 0), trafficClass)
      t.equal(carryCongestion(packet, 0), canCarry)
      if (canCarry) t.strictSame(packet, marked, 'and its checksum is right')
    }
  }
  t.end()
})
