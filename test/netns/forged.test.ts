/**
 * What must not enter a host: datagrams that a leaseholder or a stranger sends to
 * the packet path. Each raises its own counter and no other, and nothing of it is
 * handed to the kernel; the same sender's honest packet before and after is.
 */
import t, { type Test } from 'tap'
import { Drop, type DropReason } from '../../lib/encap/drops.js'
import { type PacketFields, ipPacket, resum } from '../helpers/packets.js'
import { referenceChecksum } from '../reference/checksum.js'
import { waitFor } from '../helpers/wait-for.js'
import { Injector } from './injector.js'
import { DUAL, openPair } from './open-pair.js'
import type { PathStatus } from './open-test-lab.js'

const PORT = 8285
const STRANGER = '192.0.2.77'

/** An address of the network that no host leases. */
const NOBODY = '10.5.255.9'
const NOBODY6 = 'fd00:5:0:ffff::9'

const pair = await openPair(t, 'forged', DUAL)
await pair.inside(1, 'ip', 'address', 'add', `${STRANGER}/24`, 'dev', 'eth0')
const holder = new Injector(t, pair.namespaceOf(1), '192.0.2.1', '192.0.2.2', PORT)
const stranger = new Injector(t, pair.namespaceOf(1), STRANGER, '192.0.2.2', PORT)

const [from, to] = [pair.addressOf(1, 4), pair.addressOf(2, 4)]
const [from6, to6] = [pair.addressOf(1, 6), pair.addressOf(2, 6)]

/** An echo request between containers, of one length for each family. */
function echo(fields: Partial<PacketFields> = {}): Buffer {
  const { source = from, destination = to } = fields
  const payload = Buffer.alloc(16)
  payload[0] = 8
  payload.writeUInt16BE(referenceChecksum(payload), 2)
  return Buffer.from(ipPacket({ protocol: 1, payload, ...fields, source, destination }))
}

function echo6(fields: Partial<PacketFields> = {}): Buffer {
  const { source = from6, destination = to6 } = fields
  const payload = Buffer.alloc(16)
  payload[0] = 128
  const packet = Buffer.from(
    ipPacket({ protocol: 58, payload, ...fields, source, destination }),
  )
  return packet
}

/** A packet with other bytes at a place; the header's checksum is made right again. */
function changed(packet: Buffer, at: number, ...bytes: readonly number[]): Buffer {
  packet.set(bytes, at)
  if (
    (packet[0] ?? 0) >> 4 === 4 &&
    at !== 10 &&
    (packet[0]! & 15) >= 5 &&
    (packet[0]! & 15) * 4 <= packet.length
  )
    resum(packet)
  return packet
}

interface Kind {
  readonly what: string
  readonly packet: Buffer
  readonly reason: DropReason
  readonly by?: Injector
  readonly trafficClass?: number
}

const kinds = (
  reason: DropReason,
  packets: Readonly<Record<string, Buffer>>,
  more: Partial<Kind> = {},
): Kind[] =>
  Object.entries(packets).map(([what, packet]) => ({ what, packet, reason, ...more }))

const fromEach = (make: (source: string) => Buffer, sources: readonly string[]) =>
  Object.fromEntries(sources.map(source => [source, make(source)]))

const KINDS: readonly Kind[] = [
  ...kinds('tooShort', {
    'nothing at all': Buffer.alloc(0),
    'one byte': Buffer.of(0x45),
    '19 bytes of IPv4': echo().subarray(0, 19),
    '39 bytes of IPv6': echo6().subarray(0, 39),
  }),
  ...kinds(
    'notIp',
    Object.fromEntries(
      [0, 1, 2, 3, 5, 7, 8, 15].map(version => [
        `version ${version}`,
        changed(echo(), 0, (version << 4) | 5),
      ]),
    ),
  ),
  ...kinds('badHeader', {
    ...Object.fromEntries(
      [0, 1, 2, 3, 4, 10, 15].map(words => [
        `a header of ${words} words`,
        changed(echo(), 0, 0x40 | words),
      ]),
    ),
    'a length of one more': changed(echo(), 2, 0, 37),
    'a length of one less': changed(echo(), 2, 0, 35),
    'a length of 0': changed(echo(), 2, 0, 0),
    'a length of less than the header': changed(echo(), 2, 0, 19),
    'a length of 65535': changed(echo(), 2, 0xff, 0xff),
    'bytes behind the packet': Buffer.concat([echo(), Buffer.alloc(4)]),
    'a wrong checksum': changed(echo(), 10, 0x12, 0x34),
    'no checksum': changed(echo(), 10, 0, 0),
    'a length of one more in IPv6': changed(echo6(), 4, 0, 17),
    'a length of one less in IPv6': changed(echo6(), 4, 0, 15),
    'a length of 0 in IPv6': changed(echo6(), 4, 0, 0),
    'bytes behind the packet of IPv6': Buffer.concat([echo6(), Buffer.alloc(4)]),
  }),
  ...kinds(
    'wrongSource',
    fromEach(
      source => echo({ source }),
      [
        NOBODY,
        to,
        '8.8.8.8',
        '0.0.0.0',
        '127.0.0.1',
        '224.0.0.1',
        '255.255.255.255',
        '192.0.2.1',
      ],
    ),
  ),
  ...kinds(
    'wrongSource',
    fromEach(
      source => echo6({ source }),
      [NOBODY6, to6, '::', '::1', 'ff02::1', 'fe80::1', '2001:db8::1', '::ffff:10.5.1.1'],
    ),
  ),
  ...kinds(
    'wrongDestination',
    fromEach(
      destination => echo({ destination }),
      [
        NOBODY,
        from,
        '8.8.8.8',
        '127.0.0.1',
        '224.0.0.1',
        '255.255.255.255',
        '192.0.2.2',
        '10.5.255.255',
      ],
    ),
  ),
  ...kinds(
    'wrongDestination',
    fromEach(
      destination => echo6({ destination }),
      [NOBODY6, from6, '::1', 'ff02::1', 'fe80::1', '2001:db8::2'],
    ),
  ),
  ...kinds(
    'congestion',
    { 'a mark that IPv4 cannot carry': echo(), 'a mark that IPv6 cannot carry': echo6() },
    { trafficClass: 3 },
  ),
  ...kinds(
    'unknownSender',
    {
      'an honest packet': echo(),
      'an honest packet of IPv6': echo6(),
      "nobody's packet": echo({ source: NOBODY }),
      'a packet from here': echo({ source: to }),
    },
    { by: stranger },
  ),
]

/** Packets that the path has handed to the kernel since the device was made. */
async function handedOver(): Promise<number> {
  const text = await pair.inside(2, 'ip', '-json', '-stats', 'link', 'show', 'flannel0')
  const [link] = JSON.parse(text) as [{ stats64: { rx: { packets: number } } }]
  return link.stats64.rx.packets
}

async function echoesAsked(): Promise<number> {
  const text = await pair.inside(2, 'cat', '/proc/net/snmp')
  const [names = [], values = []] = text
    .split('\n')
    .filter(line => line.startsWith('Icmp:'))
    .map(line => line.split(' '))
  return Number(values[names.indexOf('InEchos')])
}

const dropped = ({ drops }: PathStatus): number =>
  Object.values(drops).reduce((sum, count) => sum + count, 0)

/** What the counters say of the datagrams that were sent: deliveries, and drops by reason. */
async function outcome(
  send: () => Promise<void>,
  count: number,
): Promise<Record<string, number>> {
  const before = await pair.path(2)
  const seen = (path: PathStatus): number =>
    dropped(path) + (path.traffic['receivedPackets'] ?? 0)
  await send()
  const after = await waitFor('the datagrams to be counted', async () => {
    const path = await pair.path(2)
    return seen(path) >= seen(before) + count ? path : undefined
  })
  const grown = Object.keys(Drop).map(
    reason => [reason, (after.drops[reason] ?? 0) - (before.drops[reason] ?? 0)] as const,
  )
  const delivered =
    (after.traffic['receivedPackets'] ?? 0) - (before.traffic['receivedPackets'] ?? 0)
  return Object.fromEntries(
    [['delivered', delivered] as const, ...grown].filter(([, times]) => times > 0),
  )
}

async function honestPacketsEnter(t: Test): Promise<void> {
  const [handed, asked] = [await handedOver(), await echoesAsked()]
  const sent = await outcome(() => holder.send([echo(), echo6()]), 2)
  t.strictSame(sent, { delivered: 2 })
  await waitFor(
    'the kernel to have them',
    async () => (await echoesAsked()) === asked + 1 && (await handedOver()) >= handed + 2,
  )
  t.equal(await handedOver(), handed + 2)
}

t.test('no malformed or forged packet reaches the kernel', async t => {
  await honestPacketsEnter(t)
  const handed = await handedOver()

  for (const { what, packet, reason, by = holder, trafficClass = 0 } of KINDS) {
    const seen = await outcome(() => by.send([packet], { trafficClass }), 1)
    t.strictSame(seen, { [reason]: 1 }, `${what}: ${reason}`)
  }

  t.ok(KINDS.length >= 40, `${KINDS.length} kinds`)
  t.equal(await handedOver(), handed, 'not one')
  await honestPacketsEnter(t)
})

t.test('forged packets in a run of honest ones are taken out of it', async t => {
  const run = Array.from({ length: 12 }, () => echo())
  run[3] = echo({ source: NOBODY })
  run[7] = echo({ destination: NOBODY })
  run[11] = changed(echo(), 10, 0x12, 0x34)
  const before = await pair.path(2)
  const [handed, asked] = [await handedOver(), await echoesAsked()]

  const seen = await outcome(() => holder.send(run, { asRun: true }), run.length)

  const after = await pair.path(2)
  t.strictSame(seen, { delivered: 9, wrongSource: 1, wrongDestination: 1, badHeader: 1 })
  t.equal(
    after.traffic['receiveCalls']! - before.traffic['receiveCalls']!,
    1,
    'one message',
  )
  await waitFor(
    'the kernel to have the others',
    async () => (await echoesAsked()) === asked + 9 && (await handedOver()) >= handed + 9,
  )
  t.equal(await handedOver(), handed + 9)
})

t.test('who did it is told', async t => {
  const { offenders } = await pair.path(2)

  t.match(
    offenders.filter(({ outer }) => outer === STRANGER),
    [
      { reason: 'unknownSender', inner: from, count: 1 },
      { reason: 'unknownSender', inner: from6, count: 1 },
      { reason: 'unknownSender', inner: NOBODY, count: 1 },
      { reason: 'unknownSender', inner: to, count: 1 },
    ],
  )
})
