import t from 'tap'
import {
  IcmpError,
  type IcmpErrorKind,
  MAX_ICMP_ERROR,
  TokenBucket,
  mayAnswerWithError,
  writeIcmpError,
} from '../../../lib/encap/icmp.js'
import { type PacketFields, ip, ipPacket, pseudoHeader } from '../../helpers/packets.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceChecksum } from '../../reference/checksum.js'

const TO_NOBODY: PacketFields = { source: '10.5.72.9', destination: '10.5.3.1' }
const TO_NOBODY6: PacketFields = { source: 'fd00::9', destination: 'fd00:0:0:3::1' }

function mayAnswer(fields: Partial<PacketFields>, whole = TO_NOBODY): boolean {
  const packet = ipPacket({ ...whole, ...fields })
  return mayAnswerWithError(packet, 0, packet.length)
}

/** The error about a packet that lies at `start` of a memory. */
function errorAbout(
  packet: Uint8Array,
  options: { from?: string; kind?: IcmpErrorKind; mtu?: number; start?: number } = {},
): Buffer {
  const { from = '10.5.72.0', kind = IcmpError.netUnreachable } = options
  const { mtu = 0, start = 0 } = options
  const memory = Buffer.alloc(start + packet.length + MAX_ICMP_ERROR, 0xee)
  memory.set(packet, start)
  const at = start + packet.length
  const length = writeIcmpError(memory, at, ip(from), kind, mtu, start, packet.length)
  return memory.subarray(at, at + length)
}

function fromHex(text: string): Buffer {
  return Buffer.from(text.replaceAll(' ', ''), 'hex')
}

t.test('the error about a packet is this one, byte for byte', t => {
  const packet = ipPacket({ ...TO_NOBODY, payload: Buffer.from('ping') })

  const ipv4 = '45c00034 00000000 4001d5f6 0a054800 0a054809'
  const netUnreachable = '03001e2f 00000000'
  t.strictSame(
    errorAbout(packet),
    Buffer.concat([fromHex(`${ipv4}${netUnreachable}`), packet]),
  )
  const tooBig = '0304189f 0000058c'
  t.strictSame(
    errorAbout(packet, { kind: IcmpError.tooBig, mtu: 1420 }),
    Buffer.concat([fromHex(`${ipv4}${tooBig}`), packet]),
  )
  t.end()
})

t.test('the error about a packet of IPv6 names the same kinds in its own way', t => {
  const packet = ipPacket(TO_NOBODY6)
  const error = errorAbout(packet, { from: 'fd00::1', kind: IcmpError.tooBig, mtu: 1452 })

  t.equal(error.readUInt8(0) >> 4, 6)
  t.equal(error.readUInt8(6), 58)
  t.strictSame([...error.subarray(8, 24)], [...ip('fd00::1')])
  t.strictSame([...error.subarray(24, 40)], [...ip('fd00::9')])
  t.equal(error.readUInt16BE(40), 0x0200, 'packet too big')
  t.equal(error.readUInt32BE(44), 1452)
  t.strictSame(error.subarray(48), packet)
  t.equal(errorAbout(packet, { from: 'fd00::1' }).readUInt16BE(40), 0x0100, 'no route')
  t.end()
})

t.test('the error quotes what fits, and its checksums are right', async t => {
  await holds(
    t,
    fc.property(fc.nat(1500), fc.nat(30), fc.boolean(), (size, start, isIpv4) => {
      const payload = new Uint8Array(size).fill(size)
      const packet = ipPacket({ ...(isIpv4 ? TO_NOBODY : TO_NOBODY6), payload })
      const from = isIpv4 ? '10.5.72.0' : 'fd00::1'
      const error = errorAbout(packet, { from, start })
      const headers = isIpv4 ? 28 : 48
      const quoted = Math.min(packet.length, (isIpv4 ? 576 : 1280) - headers)
      const icmp = error.subarray(headers - 8)
      const covered = isIpv4 ? icmp : Buffer.concat([pseudoHeader(error), icmp])
      return (
        error.length === headers + quoted &&
        referenceChecksum(covered) === 0 &&
        (!isIpv4 || referenceChecksum(error.subarray(0, 20)) === 0) &&
        error.subarray(headers).equals(packet.subarray(0, quoted))
      )
    }),
  )
})

t.test(
  'errors of IPv6 are about packets of one host to another, and never about errors',
  t => {
    const icmp = (type: number): boolean =>
      mayAnswer({ protocol: 58, payload: Uint8Array.of(type, 0, 0, 0) }, TO_NOBODY6)
    t.ok(icmp(128), 'echo request')
    for (const type of [0, 1, 2, 3, 4, 127]) t.notOk(icmp(type), `type ${type}`)
    t.notOk(mayAnswer({ protocol: 58 }, TO_NOBODY6), 'cut before its type')
    t.notOk(
      mayAnswer({ protocol: 44, payload: new Uint8Array(8) }, TO_NOBODY6),
      'a fragment',
    )
    for (const address of ['::', 'ff02::1']) {
      t.notOk(mayAnswer({ source: address }, TO_NOBODY6), `from ${address}`)
      t.notOk(mayAnswer({ destination: address }, TO_NOBODY6), `to ${address}`)
    }
    t.ok(mayAnswer({}, TO_NOBODY6))
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
