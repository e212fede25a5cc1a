/**
 * The whole forwarder, with a device and a socket in memory: two hosts and the
 * wire between them, for FUZZ_SECONDS. What chance makes of a seed is the same
 * every time: FUZZ_SEED=n repeats one.
 *
 *   device ─► A ─► wire ─► B ─► device
 */
import t from 'tap'
import { PacketLoop, LOOP_MEMORY } from '../../../lib/backend/udp/packet-loop.js'
import {
  type ForwardingState,
  ForwardingTable,
  SOCKADDR,
  writeSockaddr,
} from '../../../lib/encap/forwarding-table.js'
import { allocatePackets } from '../../../lib/encap/packet-memory.js'
import {
  Gso,
  VIRTIO_HEADER,
  gsoSizeOf,
  gsoTypeOf,
  writeSuperVirtio,
} from '../../../lib/encap/virtio.js'
import { EHOSTUNREACH, EINVAL, EIO, EMSGSIZE } from '../../../lib/linux/libc.js'
import {
  type Arrival,
  MemoryKernel,
  type SentDatagram,
} from '../../fakes/memory-kernel.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import {
  ip,
  ipPacket,
  pseudoHeader,
  range,
  resum,
  tcpPacket,
  transportOf,
  udpPacket,
} from '../../helpers/packets.js'
import { referenceChecksum } from '../../reference/checksum.js'
import { referenceInbound, referenceOutbound } from '../../reference/forwarding.js'
import { referenceCut } from '../../reference/segments.js'
import { Chance } from '../../simulator/random.js'

const SECONDS = Number(process.env['FUZZ_SECONDS'] ?? 5)
const SEED = process.env['FUZZ_SEED']

const DO_NOT_FRAGMENT = 0x4000
const CONGESTION_EXPERIENCED = 3

/** Where hosts are, and what they have: 1 is A, 2 is B, 3 nobody's loop. */
const hostAddress = (host: number): Uint8Array => ip(`192.0.2.${host}`)
const subnets = (host: number): string[] => [`10.5.${host}.0/24`, `fd00:5:0:${host}::/64`]

function sockaddrOf(host: number): Buffer {
  const name = Buffer.alloc(SOCKADDR)
  writeSockaddr(name, 0, hostAddress(host), 8285)
  return name
}

function stateOf(host: number): ForwardingState {
  const [own4 = '', own6 = ''] = subnets(host)
  return {
    families: [
      { network: range('10.5.0.0/16'), subnet: range(own4) },
      { network: range('fd00:5::/48'), subnet: range(own6) },
    ],
    verify: 'strict',
    copyDscp: host === 1,
    hops: [1, 2, 3]
      .filter(other => other !== host)
      .map(other => ({
        subnets: subnets(other).map(range),
        address: hostAddress(other),
        port: 8285,
        sources: [],
        carriesEcn: other !== 3,
      })),
  }
}

class Host {
  readonly state: ForwardingState
  readonly kernel: MemoryKernel
  readonly loop: PacketLoop

  constructor(host: number) {
    const memory = allocatePackets(LOOP_MEMORY)
    this.state = stateOf(host)
    this.kernel = new MemoryKernel(memory.bytes)
    this.loop = new PacketLoop({
      memory,
      tun: 3,
      socket: 4,
      sender: 4,
      offloads: { tcp: true, udp: true },
      hasSegments: true,
      calls: this.kernel,
      routeMtu: () => 1328,
    })
    this.loop.useTable(new ForwardingTable(this.state))
    this.loop.permit(Infinity)
  }

  run(nowMs: number): void {
    // A turn takes a batch; what it left over comes with the next.
    while (this.kernel.fromDevice.length > 0) this.loop.fromTun(nowMs)
    while (this.kernel.arrivals.length > 0) this.loop.fromUnderlay(nowMs)
  }
}

/** What a device hands over, and the packets that it stands for. */
interface FromDevice {
  readonly bytes: Buffer
  readonly packets: readonly Buffer[]
}

class Story {
  readonly chance: Chance
  readonly a = new Host(1)
  readonly b = new Host(2)
  #now = 1000
  #id = 0
  readonly #sequence = new Map<number, number>()

  constructor(seed: number) {
    const luck = new ManualClock({ seed: seed * 7919 + 1 })
    this.chance = new Chance(() => luck.random())
  }

  bytes(length: number): Buffer {
    const [from, step] = [this.chance.between(0, 255), this.chance.between(0, 7)]
    return Buffer.from(Uint8Array.from({ length }, (_, index) => from + index * step))
  }

  /** A packet of one of a few flows, and how it is to be cut if it is long. */
  packet(length: number, size: number): FromDevice {
    const { chance } = this
    const flow = chance.between(0, 11)
    const isIpv4 = flow % 2 === 0
    const to = chance.once(6) ? chance.between(3, 4) : 2
    const trafficClass = chance.pick([0, 0, 0, 1, 2, 3, 0x28, 0xb9]) ?? 0
    const fields = {
      source: isIpv4 ? `10.5.1.${flow + 1}` : `fd00:5:0:1::${flow + 1}`,
      destination: isIpv4 ? `10.5.${to}.7` : `fd00:5:0:${to}::7`,
      ports: [40_000 + flow, 80] as const,
      trafficClass: flow < 8 ? 0 : trafficClass,
      id: this.#id++ & 0xffff,
      fragment: chance.once(3) ? 0 : DO_NOT_FRAGMENT,
      data: this.bytes(length),
    }
    if (flow >= 10) {
      const { data, ...rest } = fields
      const whole = ipPacket({ ...rest, protocol: 50, payload: data.subarray(0, 1400) })
      return {
        bytes: Buffer.concat([Buffer.alloc(VIRTIO_HEADER), whole]),
        packets: [whole],
      }
    }
    const isTcp = flow < 7
    const sequence = this.#sequence.get(flow) ?? 0
    this.#sequence.set(flow, sequence + length)
    const flags = chance.once(5) ? 0x18 : 0x10
    const whole = isTcp ? tcpPacket({ ...fields, sequence, flags }) : udpPacket(fields)
    if (length <= size && chance.once(2))
      return {
        bytes: Buffer.concat([Buffer.alloc(VIRTIO_HEADER), whole]),
        packets: [whole],
      }
    return this.#offloaded(whole, isTcp, length <= size ? 0 : size)
  }

  /** As a kernel hands it over: the checksum left open, many segments in one. */
  #offloaded(whole: Buffer, isTcp: boolean, size: number): FromDevice {
    const isIpv4 = (whole[0] ?? 0) >> 4 === 4
    const transport = transportOf(whole)
    const checksum = isTcp ? 16 : 6
    const packets = size === 0 ? [whole] : referenceCut(whole, size)
    const open = Buffer.from(whole)
    open.writeUInt16BE(
      ~referenceChecksum(pseudoHeader(open)) & 0xffff,
      transport + checksum,
    )
    const virtio = Buffer.alloc(VIRTIO_HEADER)
    const type = isTcp ? (isIpv4 ? Gso.tcp4 : Gso.tcp6) : Gso.udp
    const headers = transport + (isTcp ? 20 : 8)
    writeSuperVirtio(virtio, 0, size === 0 ? 0 : type, headers, size, transport, checksum)
    return { bytes: Buffer.concat([virtio, open]), packets }
  }

  some(): FromDevice {
    const { chance } = this
    const size = chance.pick([64, 512, 1200, 1408, 1432]) ?? 64
    const longest = Math.min(60_000, 63 * size * 2)
    const length = chance.once(2) ? chance.between(1, size) : chance.between(1, longest)
    return this.packet(length, size)
  }

  /** Something of it is not as it should be. */
  spoil(bytes: Buffer): Buffer {
    const { chance } = this
    const spoilt = Buffer.from(bytes)
    for (let times = chance.between(1, 6); times > 0; times--) {
      // Headers are what matters.
      const end = chance.once(4) ? spoilt.length : Math.min(spoilt.length, 90)
      if (end > 0) spoilt[chance.between(0, end - 1)] = chance.between(0, 255)
    }
    if (chance.once(3)) return spoilt.subarray(0, chance.between(0, spoilt.length))
    return spoilt
  }

  /** From A's device to the wire. Returns what A sent. */
  send(fromDevice: readonly FromDevice[]): SentDatagram[] {
    const { kernel } = this.a
    kernel.fromDevice.push(...fromDevice.map(({ bytes }) => bytes))
    this.a.run((this.#now += 10))
    return kernel.sent.splice(0)
  }

  /** What B's kernel makes of datagrams: runs of equal length in one message. */
  arrivals(
    datagrams: readonly { from: Buffer; bytes: Buffer; trafficClass: number }[],
  ): Arrival[] {
    const arrivals: Arrival[] = []
    for (let first = 0; first < datagrams.length;) {
      const { from, bytes, trafficClass } = datagrams[first]!
      const most = first + (this.chance.once(2) ? 1 : this.chance.between(1, 64))
      let [end, total] = [first + 1, bytes.length]
      for (; end < Math.min(most, datagrams.length); end++) {
        const next = datagrams[end]!
        if (!next.from.equals(from) || next.trafficClass !== trafficClass) break
        if (next.bytes.length > bytes.length || total + next.bytes.length > 65_000) break
        total += next.bytes.length
        if (next.bytes.length < bytes.length) {
          end += 1
          break
        }
      }
      const run = datagrams.slice(first, end).map(datagram => datagram.bytes)
      const segment = run.length > 1 ? { segment: bytes.length } : {}
      arrivals.push({ from, bytes: Buffer.concat(run), trafficClass, ...segment })
      first = end
    }
    return arrivals
  }

  /** From the wire to B's device. Returns the packets that its kernel sees. */
  deliver(arrivals: readonly Arrival[]): Buffer[] {
    const { kernel } = this.b
    kernel.arrivals.push(...arrivals)
    this.b.run((this.#now += 10))
    return kernel.toDevice.splice(0).flatMap(written => {
      const packet = written.subarray(VIRTIO_HEADER)
      if (gsoTypeOf(written, 0) === Gso.none) return [packet]
      return referenceCut(packet, gsoSizeOf(written, 0))
    })
  }

  /** What B's kernel must see of datagrams. */
  expected(arrivals: readonly Arrival[]): Buffer[] {
    return arrivals.flatMap(({ from, bytes, segment = bytes.length, trafficClass }) =>
      Array.from({ length: Math.ceil(bytes.length / Math.max(1, segment)) }, (_, index) =>
        Buffer.from(bytes.subarray(index * segment, (index + 1) * segment)),
      )
        .filter(
          datagram =>
            typeof referenceInbound(this.b.state, datagram, from.subarray(4, 8)) ===
            'number',
        )
        .flatMap(datagram =>
          trafficClass === CONGESTION_EXPERIENCED ? (marked(datagram) ?? []) : [datagram],
        ),
    )
  }
}

/** With the mark of congestion; undefined for what cannot carry it. */
function marked(packet: Buffer): Buffer | undefined {
  const copy = Buffer.from(packet)
  if (copy[0]! >> 4 === 4) {
    if ((copy[1]! & 3) === 0) return undefined
    copy[1]! |= CONGESTION_EXPERIENCED
    resum(copy)
    return copy
  }
  if ((copy[1]! & 0x30) === 0) return undefined
  copy[1]! |= CONGESTION_EXPERIENCED << 4
  return copy
}

function trafficClassOf(packet: Buffer): number {
  return packet[0]! >> 4 === 4 ? packet[1]! : (packet.readUInt16BE(0) >> 4) & 0xff
}

/** For comparison: a packet that is not fragmented has no use for its identification. */
function described(packet: Buffer): string {
  const copy = Buffer.from(packet)
  const isWhole = copy[0]! >> 4 === 4 && (copy.readUInt16BE(6) & DO_NOT_FRAGMENT) !== 0
  if (isWhole) {
    copy.fill(0, 4, 6)
    copy.fill(0, 10, 12)
  }
  return copy.toString('hex')
}

/** The flow of a TCP or UDP packet; undefined for others, which may overtake. */
function flowOf(packet: Buffer): string | undefined {
  const isIpv4 = packet[0]! >> 4 === 4
  const protocol = packet[isIpv4 ? 9 : 6]
  if (protocol !== 6 && protocol !== 17) return undefined
  if (isIpv4 && (packet.readUInt16BE(6) & 0x3fff) !== 0) return undefined
  const start = isIpv4 ? (packet[0]! & 15) * 4 : 40
  if (packet.length < start + 4) return undefined
  const addresses = isIpv4 ? packet.subarray(12, 20) : packet.subarray(8, 40)
  return Buffer.concat([addresses, packet.subarray(start, start + 4)]).toString('hex')
}

function expectSame(
  seen: readonly Buffer[],
  wanted: readonly Buffer[],
  what: string,
): void {
  const all = (packets: readonly Buffer[]): string =>
    packets.map(described).sort().join('\n')
  if (all(seen) !== all(wanted))
    throw new Error(`${what}: ${seen.length} packets, not the ${wanted.length} expected`)
  const inOrder = (packets: readonly Buffer[]): Map<string, string[]> => {
    const flows = new Map<string, string[]>()
    for (const packet of packets) {
      const flow = flowOf(packet)
      if (flow === undefined) continue
      flows.set(flow, [...(flows.get(flow) ?? []), described(packet)])
    }
    return flows
  }
  const wantedOrder = inOrder(wanted)
  for (const [flow, packets] of inOrder(seen))
    if (packets.join() !== wantedOrder.get(flow)?.join())
      throw new Error(`${what}: packets of a flow overtake each other`)
}

const count = { seeds: 0, packets: 0, spoilt: 0 }

/** Sound packets arrive as they are, in order, whatever joins and cuts them, and whoever forges others among them. */
function carry(seed: number): void {
  const story = new Story(seed)
  const { a, b, chance } = story
  const given = Array.from({ length: chance.between(1, 40) }, () => story.some())
  const all = given.flatMap(({ packets }) => packets)
  const hops = all.map(packet => referenceOutbound(a.state, packet))

  a.kernel.takes = () => true
  const sent = story.send(given)
  const routed = all.filter((_, index) => typeof hops[index] === 'number')
  if (sent.length !== routed.length)
    throw new Error(`${sent.length} datagrams, not ${routed.length}`)
  const reached = hops.filter(hop => typeof hop === 'number')
  for (const [index, { to, bytes, trafficClass }] of sent.entries()) {
    if (!bytes.equals(routed[index]!)) throw new Error(`datagram ${index} is another`)
    const hop = reached[index]!
    if (to[7] !== hop + 2) throw new Error(`datagram ${index} goes to host ${to[7]}`)
    const inner = trafficClassOf(bytes)
    const outer = a.state.hops[hop]!.carriesEcn ? inner : inner & 0xfc
    if (trafficClass !== outer)
      throw new Error(`datagram ${index} of class ${inner} is sent as ${trafficClass}`)
  }
  if (a.loop.traffic.sentPackets !== sent.length) throw new Error('miscounted')
  a.kernel.toDevice.length = 0

  const forge = (bytes: Buffer): Buffer => {
    const copy = Buffer.from(bytes)
    if (copy[0]! >> 4 === 4) {
      copy[14] = chance.pick([2, 3, 9]) ?? 3 // the third byte of its source
      resum(copy)
    } else copy[15] = chance.pick([2, 3, 9]) ?? 3
    return copy
  }
  const wire = sent
    .filter(({ to }) => to[7] === 2)
    .flatMap(({ bytes, trafficClass }) => {
      const isMarked = (trafficClass & 3) !== 0 && chance.once(8)
      const outer = isMarked ? trafficClass | CONGESTION_EXPERIENCED : trafficClass
      const from = sockaddrOf(1)
      const honest = {
        from,
        bytes,
        trafficClass: isMarked ? CONGESTION_EXPERIENCED : outer & 3,
      }
      if (chance.once(20)) return [honest, { ...honest, bytes: forge(bytes) }]
      if (chance.once(20))
        return [honest, { ...honest, from: sockaddrOf(chance.between(3, 9)) }]
      return [honest]
    })
  const arrivals = story.arrivals(wire)
  b.kernel.takes = packet => gsoTypeOf(packet, 0) === Gso.none || !chance.once(10)
  expectSame(story.deliver(arrivals), story.expected(arrivals), 'delivered')
  count.packets += all.length
}

/** Whatever comes, only whole packets leave, to where they belong, and only what may enter enters. */
function attack(seed: number): void {
  const story = new Story(seed)
  const { a, b, chance } = story
  const given = Array.from({ length: chance.between(1, 40) }, () => {
    const { bytes, packets } = story.some()
    return { bytes: story.spoil(bytes), packets }
  })
  a.kernel.takes = () => !chance.once(10)
  a.kernel.sendError = () =>
    chance.once(10) ? (chance.pick([EMSGSIZE, EIO, EINVAL, EHOSTUNREACH]) ?? 0) : 0
  const sent = story.send(given)
  a.kernel.sendError = () => 0
  for (const { to, bytes } of sent) {
    const hop = referenceOutbound(a.state, bytes)
    if (typeof hop !== 'number' || to[7] !== hop + 2)
      throw new Error(
        `sent to host ${to[7]}, and ought to be ${hop}: ${bytes.toString('hex')}`,
      )
  }
  for (const answer of a.kernel.toDevice.splice(0)) {
    const packet = answer.subarray(VIRTIO_HEADER)
    if (
      packet.length > 1280 ||
      typeof referenceInbound(a.state, packet, hostAddress(1)) === 'number'
    )
      throw new Error('an answer that is none')
  }

  const datagrams = given
    .flatMap(({ packets }) => packets.slice(0, 20))
    .map(packet => ({
      from: sockaddrOf(chance.pick([1, 1, 1, 3, 7]) ?? 1),
      bytes: chance.once(2) ? story.spoil(packet) : packet,
      trafficClass: chance.between(0, 3),
    }))
  const arrivals = story.arrivals(datagrams.filter(({ bytes }) => bytes.length > 0))
  if (chance.once(3))
    arrivals.push({
      from: sockaddrOf(1),
      bytes: Buffer.alloc(chance.pick([0, 65_507, 70_000]) ?? 0),
    })
  b.kernel.takes = packet => gsoTypeOf(packet, 0) === Gso.none || !chance.once(3)
  expectSame(story.deliver(arrivals), story.expected(arrivals), 'entered')
  count.spoilt += given.length + datagrams.length
}

t.test(
  'a forwarder forwards, whatever it is given',
  { timeout: (SECONDS + 60) * 1000 },
  t => {
    const first = SEED === undefined ? 1 : Number(SEED)
    const until = performance.now() + SECONDS * 1000
    let failure = ''
    for (let seed = first; failure === '' && performance.now() < until; seed++) {
      try {
        if (seed % 2 === 0) attack(seed)
        else carry(seed)
      } catch (error) {
        failure = `FUZZ_SEED=${seed}: ${error instanceof Error ? (error.stack ?? '') : String(error)}`
      }
      count.seeds += 1
      if (SEED !== undefined) break
    }
    t.equal(failure, '')
    t.comment(
      `${count.seeds} seeds, ${count.packets} packets carried, ${count.spoilt} spoilt`,
    )
    t.end()
  },
)
