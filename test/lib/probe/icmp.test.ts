import t from 'tap'
import { LEAST_SIZE, echoRequest, readIcmp } from '../../../lib/probe/icmp.js'
import { fc, holds } from '../../helpers/property.js'
import { ipPacket } from '../../helpers/packets.js'
import { referenceChecksum } from '../../reference/checksum.js'

const ECHO = { identifier: 0x1234, sequence: 0xfffe, token: 0x0102030405060708n }

t.test('a request has its size, and in IPv4 its checksum', t => {
  for (const size of [LEAST_SIZE[4], 1500]) {
    const message = echoRequest(4, ECHO, size)
    t.equal(message.length, size - 20)
    t.equal(message[0], 8)
    t.equal(referenceChecksum(message), 0)
  }
  const message = echoRequest(6, ECHO, 1280)
  t.equal(message.length, 1240)
  t.equal(message.subarray(0, 8).toString('hex'), '800000001234fffe')
  t.equal(echoRequest(4, ECHO, 1).length, LEAST_SIZE[4] - 20, 'never less than it needs')
  t.end()
})

t.test('an answer is read in both families', t => {
  for (const family of [4, 6] as const) {
    const message = echoRequest(family, ECHO, 100)
    message[0] = family === 4 ? 0 : 129
    const packet =
      family === 4
        ? ipPacket({
            source: '192.0.2.2',
            destination: '192.0.2.1',
            protocol: 1,
            payload: message,
            options: Buffer.alloc(8, 1),
          })
        : message
    t.strictSame(readIcmp(family, packet), { kind: 'reply', ...ECHO })
    message[0] = family === 4 ? 8 : 128
    t.equal(readIcmp(6, message), undefined, "somebody's request is none")
  }
  t.end()
})

t.test('an error tells what packet of ours it is about', t => {
  const udp = Buffer.from([0x20, 0x5d, 0x20, 0x5d, 0, 8, 0, 0])
  const failure = (family: 4 | 6, type: number, code: number, more: number): unknown => {
    const header = Buffer.alloc(8)
    header[0] = type
    header[1] = code
    header.writeUInt32BE(more, 4)
    const quoted =
      family === 4
        ? ipPacket({ source: '192.0.2.1', destination: '192.0.2.2', payload: udp })
        : ipPacket({ source: '2001:db8::1', destination: '2001:db8::2', payload: udp })
    const message = Buffer.concat([header, quoted])
    return readIcmp(
      family,
      family === 4
        ? ipPacket({
            source: '192.0.2.2',
            destination: '192.0.2.1',
            protocol: 1,
            payload: message,
          })
        : message,
    )
  }
  t.match(failure(4, 3, 3, 0), {
    trouble: 'noPort',
    destination: '192.0.2.2',
    protocol: 17,
    port: 8285,
    echo: undefined,
  })
  t.match(failure(6, 1, 4, 0), { trouble: 'noPort', destination: '2001:db8::2' })
  t.match(failure(4, 3, 4, 1400), { trouble: 'tooBig', mtu: 1400 })
  t.match(failure(6, 2, 0, 1300), { trouble: 'tooBig', mtu: 1300 })
  t.match(failure(4, 3, 2, 0), { trouble: 'noProtocol' })
  t.match(failure(4, 3, 13, 0), { trouble: 'refused' })
  t.match(failure(6, 1, 1, 0), { trouble: 'refused' })
  t.match(failure(4, 3, 1, 0), { trouble: 'unreachable' })
  t.equal(failure(4, 11, 0, 0), undefined, 'time exceeded is no matter')
  t.end()
})

t.test('whatever comes, nothing breaks', async t => {
  await holds(
    t,
    fc.property(
      fc.constantFrom(4 as const, 6 as const),
      fc.uint8Array({ maxLength: 120 }),
      (family, bytes) => {
        readIcmp(family, Buffer.from(bytes))
      },
    ),
  )
})
