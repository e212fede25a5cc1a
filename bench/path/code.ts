/** The packet path's code alone, without a system call: nanoseconds, and bytes left on the heap. */
import { Coalescer } from '../../lib/encap/coalescer.js'
import { checkInbound, routeOutbound } from '../../lib/encap/forward.js'
import { ForwardingTable } from '../../lib/encap/forwarding-table.js'
import { allocatePackets } from '../../lib/encap/packet-memory.js'
import { SuperPacket } from '../../lib/encap/super-packet.js'
import { Gso } from '../../lib/encap/virtio.js'
import { allocatedBy } from '../../test/helpers/heap.js'
import { ip, range, tcpPacket } from '../../test/helpers/packets.js'
import { formatTable, median } from '../table.js'

const REMOTES = 10_000
const SEGMENT = 1432
const SEGMENTS = 44

const CALLS = 200_000
const ROUNDS = 5

const memory = allocatePackets(1 << 20)
const { bytes } = memory

/** 10.0.0.0/8 in subnets of 256 addresses; ours is the first. */
const subnetOf = (remote: number): string =>
  `10.${(remote + 1) >> 8}.${(remote + 1) & 255}`

const table = new ForwardingTable({
  families: [{ network: range('10.0.0.0/8'), subnet: range('10.0.0.0/24') }],
  verify: 'strict',
  copyDscp: false,
  hops: Array.from({ length: REMOTES }, (_, remote) => ({
    subnets: [range(`${subnetOf(remote)}.0/24`)],
    address: ip(`172.16.${remote >> 8}.${remote & 255}`),
    port: 8285,
    sources: [],
    carriesEcn: true,
  })),
})

interface Work {
  readonly what: string
  /** Packets that one call is about. */
  readonly packets: number
  readonly call: () => void
}

const data = Buffer.alloc(SEGMENT * SEGMENTS)
const far = subnetOf(REMOTES - 1)
const [OUT, SUPER, IN, HEADERS, OUTER] = [0, 100_000, 200_000, 400_000, 500_000]
const out = tcpPacket({
  source: '10.0.0.2',
  destination: `${far}.2`,
  data: data.subarray(0, 64),
})
const whole = tcpPacket({
  source: '10.0.0.2',
  destination: `${far}.2`,
  fragment: 0x4000,
  data,
})
const incoming = Array.from({ length: SEGMENTS }, (_, index) =>
  tcpPacket({
    source: `${far}.2`,
    destination: '10.0.0.2',
    fragment: 0x4000,
    sequence: index * SEGMENT,
    data: data.subarray(0, SEGMENT),
  }),
)
bytes.set(out, OUT)
bytes.set(whole, SUPER)
for (const [index, packet] of incoming.entries()) bytes.set(packet, IN + index * 2048)
bytes.set(ip(`172.16.${(REMOTES - 1) >> 8}.${(REMOTES - 1) & 255}`), OUTER)

const cutter = new SuperPacket(memory)
const coalescer = new Coalescer(memory, SEGMENTS, { tcp: true, udp: true })
/** Kept small: a number that is no small integer lies on the heap. */
let seen = 0

function see(value: number): void {
  seen = (seen ^ value) & 0xffff
}

const WORKS: readonly Work[] = [
  {
    what: 'check and look up, outbound',
    packets: 1,
    call: () => {
      see(routeOutbound(bytes, OUT, out.length, table))
    },
  },
  {
    what: 'check, look up and verify, inbound',
    packets: 1,
    call: () => {
      see(checkInbound(bytes, IN, incoming[0]?.length ?? 0, bytes, OUTER, 4, table))
    },
  },
  {
    what: 'cut a super-packet',
    packets: SEGMENTS,
    call: () => {
      cutter.open(SUPER, whole.length, Gso.tcp4, SEGMENT)
      for (let index = 0; index < cutter.count; index++)
        cutter.writeHeader(index, HEADERS + index * 128)
      see(cutter.count)
    },
  },
  {
    what: 'join packets, checksums checked',
    packets: SEGMENTS,
    call: () => {
      coalescer.reset()
      for (let index = 0; index < SEGMENTS; index++)
        coalescer.add(IN + index * 2048, incoming[index]?.length ?? 0)
      see(coalescer.writeHeader(0, HEADERS))
    },
  },
]

/** A table of them. */
export function measureCode(): string {
  const rows = WORKS.map(({ what, packets, call }) => {
    const calls = Math.ceil(CALLS / packets)
    for (let index = 0; index < calls; index++) call()
    const times = Array.from({ length: ROUNDS }, () => {
      const begin = process.hrtime.bigint()
      for (let index = 0; index < calls; index++) call()
      return Number(process.hrtime.bigint() - begin) / calls / packets
    })
    const left = allocatedBy(call, Math.max(10_000, calls))
    const perMillion = (left / Math.max(10_000, calls) / packets) * 1e6
    return [what, median(times).toFixed(0), (perMillion / 1024).toFixed(1)]
  })
  const title = `code alone, ${REMOTES.toLocaleString('en')} remotes, ${SEGMENT} bytes`
  return formatTable([title, 'ns a packet', 'KiB left on the heap by a million'], rows)
}
