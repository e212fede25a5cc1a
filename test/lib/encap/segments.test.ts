/** Super-packets: cut apart for the wire, and put together for the kernel. */
import t from 'tap'
import { Coalescer, type Joinable } from '../../../lib/encap/coalescer.js'
import { completeChecksum } from '../../../lib/encap/complete-checksum.js'
import { type PacketMemory, allocatePackets } from '../../../lib/encap/packet-memory.js'
import { SuperPacket } from '../../../lib/encap/super-packet.js'
import { MAX_HEADERS } from '../../../lib/encap/transport.js'
import {
  Gso,
  VIRTIO_HEADER,
  gsoSizeOf,
  gsoTypeOf,
  writeSuperVirtio,
} from '../../../lib/encap/virtio.js'
import {
  type TcpFields,
  tcpPacket,
  transportOf,
  udpPacket,
} from '../../helpers/packets.js'
import { allocatedBy } from '../../helpers/heap.js'
import { fc, holds } from '../../helpers/property.js'
import { referenceCut, referenceJoin, referenceSuper } from '../../reference/segments.js'

const memory = allocatePackets(2 << 20)
const BOTH = { tcp: true, udp: true }
const [FIN, SYN, RST, PSH, ACK, URG, ECE, CWR] = [1, 2, 4, 8, 16, 32, 64, 128] as const

const ENDS = [
  { source: '10.5.1.2', destination: '10.5.2.3' },
  { source: 'fd00:5:0:1::2', destination: 'fd00:5:0:2::3' },
] as const

function place(packet: Uint8Array, start: number): void {
  memory.bytes.set(packet, start)
}

function at(start: number, length: number): Buffer {
  return Buffer.from(memory.bytes.slice(start, start + length))
}

function gsoTypeFor(packet: Uint8Array): number {
  const isIpv4 = packet[0]! >> 4 === 4
  if (packet[isIpv4 ? 9 : 6] === 17) return Gso.udp
  return isIpv4 ? Gso.tcp4 : Gso.tcp6
}

/** Cuts a super-packet, or undefined when it is none. */
function cut(
  packet: Uint8Array,
  size: number,
  type = gsoTypeFor(packet),
): Buffer[] | undefined {
  const start = 1000
  place(packet, start)
  const before = at(start, packet.length)
  const cutter = new SuperPacket(memory)
  if (!cutter.open(start, packet.length, type, size)) return undefined
  const packets = Array.from({ length: cutter.count }, (_, index) => {
    const header = 200_000
    memory.bytes.fill(0xee, header, header + MAX_HEADERS + 1)
    cutter.writeHeader(index, header)
    if (memory.bytes[header + cutter.headerLength] !== 0xee)
      throw new Error('a header is longer than it says')
    return Buffer.concat([
      at(header, cutter.headerLength),
      at(cutter.payloadStart(index), cutter.payloadLength(index)),
    ])
  })
  if (!at(start, packet.length).equals(before))
    throw new Error('the cut changed its input')
  return packets
}

interface Run {
  /** By their places in the list. */
  readonly packets: readonly number[]
  /** As it is written to the device, without the virtio header; undefined for a run of one. */
  readonly joined?: Buffer
  readonly type?: number
  readonly size?: number
}

function join(
  packets: readonly Buffer[],
  joinable: Joinable = BOTH,
  in_: PacketMemory = memory,
): Run[] {
  const coalescer = new Coalescer(in_, Math.max(1, packets.length), joinable)
  let start = 7
  const starts = packets.map(packet => {
    in_.bytes.set(packet, start)
    const own = start
    start += packet.length
    coalescer.add(own, packet.length)
    return own
  })
  return Array.from({ length: coalescer.runs }, (_, run) => {
    const places: number[] = []
    const data: Uint8Array[] = []
    const headers = coalescer.headerLengthOf(run)
    for (
      let packet = coalescer.firstOf(run);
      packet >= 0;
      packet = coalescer.nextOf(packet)
    ) {
      places.push(starts.indexOf(coalescer.startOf(packet)))
      const own = coalescer.startOf(packet)
      data.push(in_.bytes.slice(own + headers, own + coalescer.lengthOf(packet)))
    }
    if (coalescer.packetsIn(run) === 1) return { packets: places }
    const header = 1_500_000
    const size = coalescer.writeHeader(run, header)
    return {
      packets: places,
      joined: Buffer.concat([
        in_.bytes.slice(header + VIRTIO_HEADER, header + size),
        ...data,
      ]),
      type: gsoTypeOf(in_.bytes, header),
      size: gsoSizeOf(in_.bytes, header),
    }
  })
}

function bytes(size: number, seed = 1): Buffer {
  return Buffer.from(
    Uint8Array.from({ length: size }, (_, index) => (index * 7 + seed) & 255),
  )
}

const ends = fc.constantFrom(...ENDS)
const superTcp = fc
  .record({
    ends,
    data: fc.integer({ min: 1, max: 20_000 }),
    seed: fc.nat(255),
    size: fc.integer({ min: 1, max: 3000 }),
    sequence: fc.constantFrom(0, 1, 0xffff_ff00, 0x7fff_ffff),
    flags: fc.constantFrom(ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR, ACK | ECE | CWR),
    options: fc.constantFrom(0, 12, 40),
    trafficClass: fc.constantFrom(0, 0x02, 0xb8),
    id: fc.constantFrom(0, 7, 65_530),
    fragment: fc.constantFrom(0, 0x4000),
  })
  .map(({ ends: both, data, seed, options, size, ...fields }) => ({
    packet: tcpPacket({
      ...both,
      ...fields,
      tcpOptions: bytes(options),
      data: bytes(data, seed),
    }),
    size,
  }))
const superUdp = fc
  .record({
    ends,
    data: fc.integer({ min: 1, max: 20_000 }),
    size: fc.integer({ min: 1, max: 3000 }),
    id: fc.nat(65_535),
  })
  .map(({ ends: both, data, size, id }) => ({
    packet: udpPacket({ ...both, id, data: bytes(data) }),
    size,
  }))

t.test(
  'a cut super-packet is the packets that it stands for, made one by one',
  async t => {
    await holds(
      t,
      fc.property(fc.oneof(superTcp, superUdp), ({ packet, size }) => {
        // No more than a device would make of one.
        const least = Math.max(size, Math.ceil(packet.length / 200))
        const cutPackets = cut(packet, least)
        return (
          cutPackets !== undefined &&
          Buffer.concat(cutPackets).equals(Buffer.concat(referenceCut(packet, least)))
        )
      }),
      { numRuns: 1000 },
    )
  },
)

t.test('what cannot be cut is refused', t => {
  const good = tcpPacket({ ...ENDS[0], data: bytes(100) })
  const changed = (change: (packet: Buffer) => void): Buffer => {
    const packet = Buffer.from(good)
    change(packet)
    return packet
  }
  t.ok(cut(good, 10))
  t.notOk(cut(good, 0), 'in pieces of nothing')
  t.notOk(cut(good, 10, Gso.udp), 'as another protocol')
  t.notOk(cut(tcpPacket(ENDS[0]), 10), 'without payload')
  t.notOk(
    cut(tcpPacket({ ...ENDS[0], fragment: 0x2000, data: bytes(100) }), 10),
    'a fragment',
  )
  t.notOk(
    cut(tcpPacket({ ...ENDS[0], options: bytes(4), data: bytes(100) }), 10),
    'IPv4 options',
  )
  t.notOk(
    cut(
      changed(packet => (packet[32] = 0x40)),
      10,
    ),
    'a short TCP header',
  )
  t.notOk(cut(good.subarray(0, 39), 10), 'a cut TCP header')
  t.notOk(
    cut(changed(packet => (packet[32] = 0xf0)).subarray(0, 60), 10),
    'TCP options that are not there',
  )
  t.end()
})

t.test(
  'any bytes that are called a super-packet are cut within their bounds, or refused',
  async t => {
    await holds(
      t,
      fc.property(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          superTcp.map(({ packet }) => packet.subarray(0, 120)),
        ),
        fc.constantFrom(0x45, 0x60, 0x4f, 0x00),
        fc.constantFrom(...Object.values(Gso), 3, 255),
        fc.nat(70),
        (content, first, type, size) => {
          const packet = Buffer.from(content)
          if (packet.length > 0) packet[0] = first
          const cutPackets = cut(packet, size, type)
          return (
            cutPackets === undefined ||
            cutPackets.every(each => each.length <= packet.length)
          )
        },
      ),
      { numRuns: 3000 },
    )
  },
)

t.test('a checksum that the kernel left to us is completed', async t => {
  await holds(
    t,
    fc.property(fc.oneof(superTcp, superUdp), ({ packet }) => {
      const start = transportOf(packet)
      const field = gsoTypeFor(packet) === Gso.udp ? 6 : 16
      const left = referenceSuper([packet])
      const from = 64
      place(left, from)
      writeSuperVirtio(memory.bytes, from - VIRTIO_HEADER, 0, 0, 0, start, field)
      return (
        completeChecksum(memory, from, left.length) &&
        at(from, left.length).equals(packet)
      )
    }),
  )
  writeSuperVirtio(memory.bytes, 64 - VIRTIO_HEADER, 0, 0, 0, 20, 16)
  const before = at(0, 200)
  t.notOk(completeChecksum(memory, 64, 37), 'a field outside the packet')
  place(tcpPacket({ ...ENDS[0], data: bytes(40) }), 64)
  const whole = at(0, 200)
  writeSuperVirtio(memory.bytes, 64 - VIRTIO_HEADER, 0, 0, 0, 10, 0)
  t.notOk(completeChecksum(memory, 64, 80), 'a field in the IP header')
  t.strictSame(at(64, 80), whole.subarray(64, 144))
  place(before, 0)
  t.strictSame(at(0, 200), before)
})

const PLAIN = {
  data: 100,
  flags: ACK,
  gap: 0,
  window: 512,
  ttl: 64,
  trafficClass: 0,
  fragment: 0x4000,
  idGap: 0,
  acknowledgment: 9,
  options: 12,
  spoiled: false,
}

/** One thing that is different, or nothing. */
const oddity = fc.oneof(
  { weight: 12, arbitrary: fc.constant({}) },
  { weight: 1, arbitrary: fc.record({ data: fc.constantFrom(60, 0, 1, 101) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      flags: fc
        .constantFrom(PSH, FIN, SYN, RST, CWR, URG, ECE, 0)
        .map(flag => (flag === 0 ? 0 : ACK | flag)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ gap: fc.constantFrom(1, -100) }) },
  { weight: 1, arbitrary: fc.record({ fragment: fc.constantFrom(0, 0x2000, 0x0001) }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<object[]>(
      { window: 513 },
      { ttl: 63 },
      { trafficClass: 2 },
      { idGap: 5 },
      { acknowledgment: 10 },
      { options: 0 },
      { spoiled: true },
    ),
  },
)

/** Packets of a few flows that nearly follow each other; those of some streams may be fragmented. */
const stream = fc
  .tuple(
    fc.constantFrom(0x4000, 0x4000, 0),
    fc.array(fc.tuple(fc.nat(3), oddity), { maxLength: 40, size: 'max' }),
  )
  .map(([fragment, pieces]) =>
    pieces.map(([flow, odd]) => ({ flow, ...PLAIN, fragment, ...odd })),
  )
  .map(pieces => {
    const sequences = [0xffff_ff00, 1, 1, 1]
    const ids = [65_533, 1, 1, 1]
    return pieces.map((piece, index) => {
      const { flow, data, gap, idGap, options, spoiled, ...fields } = piece
      const common = {
        ...ENDS[flow % 2]!,
        ports: [5000 + flow, 80] as const,
        id: (ids[flow]! + idGap) & 0xffff,
        data: bytes(data, index),
      }
      const sequence = sequences[flow]! + gap
      const packet =
        flow < 2
          ? tcpPacket({ ...common, ...fields, sequence, tcpOptions: bytes(options) })
          : udpPacket({ ...common, ...fields })
      sequences[flow] = sequence + data
      ids[flow]! += 1
      if (spoiled) packet[packet.length - 1]! ^= 1
      return packet
    })
  })

t.test('packets are joined with those that a slow comparison finds', async t => {
  let several = 0
  await holds(
    t,
    fc.property(stream, packets => {
      const runs = join(packets)
      const expected = referenceJoin(packets)
      several += expected.filter(({ length }) => length > 2).length
      return (
        JSON.stringify(runs.map(run => run.packets)) === JSON.stringify(expected) &&
        runs.every(
          ({ packets: places, joined }) =>
            joined === undefined ||
            joined.equals(referenceSuper(places.map(index => packets[index]!))),
        )
      )
    }),
    { numRuns: 3000 },
  )
  t.ok(several > 1000, `${several} runs of three and more`)
})

/** The packet without its identification, which means nothing when it may not be fragmented (RFC 6864). */
function withoutId(packet: Buffer): string {
  const same = Buffer.from(packet)
  if (same[0]! >> 4 === 4 && (same.readUInt16BE(6) & 0x4000) !== 0) {
    same.fill(0, 4, 6)
    same.fill(0, 10, 12)
  }
  return same.toString('hex')
}

t.test('a run that is cut again gives the packets that it was joined of', async t => {
  await holds(
    t,
    fc.property(stream, packets =>
      join(packets).every(({ packets: places, joined, type, size }) => {
        if (joined === undefined) return true
        const again = cut(joined, size!, type)
        const before = places.map(index => withoutId(packets[index]!))
        return JSON.stringify(again?.map(withoutId)) === JSON.stringify(before)
      }),
    ),
    { numRuns: 1000 },
  )
})

t.test('every packet comes out once, those of a flow in their order', async t => {
  await holds(
    t,
    fc.property(stream, packets => {
      const places = join(packets).flatMap(run => run.packets)
      const flowOf = (index: number): string => {
        const packet = packets[index]!
        const start = transportOf(packet)
        // A fragment is of no flow that can be seen.
        if (packet[0] === 0x45 && (packet.readUInt16BE(6) & 0x3fff) !== 0)
          return String(index)
        return packet.subarray(start, start + 4).toString('hex')
      }
      const isInOrder = places.every((place, index) =>
        places
          .slice(index + 1)
          .every(later => later > place || flowOf(later) !== flowOf(place)),
      )
      const sorted = [...places].sort((a, b) => a - b)
      return isInOrder && sorted.join() === packets.map((_, index) => index).join()
    }),
    { numRuns: 1000 },
  )
})

function segments(
  count: number,
  change: (index: number) => TcpFields | undefined = () => undefined,
): Buffer[] {
  return Array.from({ length: count }, (_, index) =>
    tcpPacket({
      ...ENDS[0],
      fragment: 0x4000,
      sequence: 100 * index,
      data: bytes(100, index),
      ...change(index),
    }),
  )
}

const shapeOf = (packets: readonly Buffer[], joinable?: Joinable): string =>
  join(packets, joinable)
    .map(run => run.packets.join(''))
    .join(' ')

t.test('what says something of its own ends a run', t => {
  const at2 = (fields: Partial<TcpFields>): string =>
    shapeOf(segments(5, index => (index === 2 ? { ...ENDS[0], ...fields } : undefined)))
  t.equal(shapeOf(segments(5)), '01234')
  t.equal(at2({ flags: ACK | PSH }), '012 34', 'PSH is the last')
  t.equal(at2({ flags: ACK | FIN }), '012 34')
  t.equal(at2({ flags: ACK | CWR }), '01 2 34', 'CWR is alone')
  t.equal(at2({ flags: ACK | ECE }), '01 2 34')
  t.equal(at2({ flags: ACK | SYN }), '01 2 34')
  t.equal(at2({ trafficClass: 2 }), '01 2 34')
  t.equal(at2({ ttl: 9 }), '01 2 34')
  t.equal(at2({ window: 9 }), '01 2 34')
  t.equal(at2({ acknowledgment: 9 }), '01 2 34')
  t.equal(at2({ tcpOptions: bytes(12) }), '01 2 34')
  t.equal(at2({ fragment: 0x2000 }), '01 2 34', 'a fragment')
  t.equal(at2({ data: bytes(60) }), '012 34', 'a short one is the last')
  t.equal(at2({ data: bytes(101) }), '01 2 34', 'a longer one begins')
  t.end()
})

t.test('the acknowledgments of one flow do not end the run of another', t => {
  const data = segments(4)
  const ack = tcpPacket({ ...ENDS[0], ports: [9, 9], acknowledgment: 7 })
  const packets = [data[0]!, ack, data[1]!, ack, data[2]!, data[3]!]
  t.equal(shapeOf(packets), '0245 1 3')
  t.end()
})

t.test('a device that takes no super-packets gets every packet alone', t => {
  const packets = segments(3)
  t.equal(shapeOf(packets, { tcp: false, udp: true }), '0 1 2')
  const udp = [1, 2, 3].map(id => udpPacket({ ...ENDS[1], id, data: bytes(50) }))
  t.equal(shapeOf(udp, { tcp: true, udp: false }), '0 1 2')
  t.equal(shapeOf(udp), '012')
  t.end()
})

t.test('a run is no longer than a packet may be', t => {
  const packets = segments(50, index => ({
    ...ENDS[0],
    fragment: 0x4000,
    sequence: 1400 * index,
    data: bytes(1400),
  }))
  const runs = join(packets)
  t.equal(runs.length, 2)
  t.equal(runs[0]?.packets.length, 46)
  t.equal(runs[0]?.joined?.length, 40 + 46 * 1400)
  t.end()
})

t.test('datagrams are joined up to 64, and never without a checksum', t => {
  const udp = (count: number): Buffer[] =>
    Array.from({ length: count }, () => udpPacket({ ...ENDS[1], data: bytes(20) }))
  t.strictSame(
    join(udp(70)).map(run => run.packets.length),
    [64, 6],
  )
  const bare = udp(3)
  for (const packet of bare) packet.fill(0, 46, 48)
  t.equal(shapeOf(bare), '0 1 2')
  t.end()
})

t.test('cutting and joining leave nothing on the heap', t => {
  const packets = segments(40)
  const data = Buffer.concat(packets.map(packet => packet.subarray(40)))
  const whole = tcpPacket({ ...ENDS[0], fragment: 0x4000, data })
  const cutter = new SuperPacket(memory)
  const coalescer = new Coalescer(memory, 64, BOTH)
  let count = 0
  const carry = (): void => {
    cutter.open(1000, whole.length, Gso.tcp4, 100)
    for (let index = 0; index < cutter.count; index++)
      cutter.writeHeader(index, 200_000 + 256 * index)
    coalescer.reset()
    for (let index = 0; index < packets.length; index++)
      coalescer.add(300_000 + 256 * index, packets[index]!.length)
    for (let run = 0; run < coalescer.runs; run++) {
      coalescer.writeHeader(run, 400_000)
      count += coalescer.packetsIn(run)
    }
  }
  place(whole, 1000)
  for (const [index, packet] of packets.entries()) place(packet, 300_000 + 256 * index)

  const bytesLeft = allocatedBy(carry, 20_000)

  t.ok(count > 0 && count % (20_000 * 40) === 0, `${count} packets`)
  t.ok(bytesLeft < 500_000, `${bytesLeft} bytes for 1,600,000 packets`)
  t.end()
})
