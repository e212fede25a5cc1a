import type { ForwardingTable } from '../../encap/forwarding-table.js'
import {
  type IcmpErrorKind,
  MAX_ICMP_ERROR,
  TokenBucket,
  mayAnswerWithError,
  writeIcmpError,
} from '../../encap/icmp.js'
import { versionOf } from '../../encap/ip.js'
import type { PacketMemory } from '../../encap/packet-memory.js'
import type { Traffic } from '../../encap/path-control.js'
import { VIRTIO_HEADER, writePlainVirtio } from '../../encap/virtio.js'
import { SliceVector } from '../../linux/datagrams.js'
import type { PacketCalls } from '../../linux/libc.js'

/** ICMP errors a second, and at once. Linux's own limit is of this order (icmp_msgs_per_sec 1000, burst 50). */
const RATE = 1000
const BURST = 50

/** Bytes of packet memory that they need. */
export const ANSWER_MEMORY = VIRTIO_HEADER + MAX_ICMP_ERROR

export interface IcmpAnswersOptions {
  readonly memory: PacketMemory
  /** Where its ANSWER_MEMORY bytes begin. */
  readonly start: number
  readonly tun: number
  readonly calls: PacketCalls
  readonly traffic: Traffic
}

/** Tells senders why their packets go nowhere; a container sees it as from this host. */
export class IcmpAnswers {
  readonly #bytes: Uint8Array
  readonly #start: number
  readonly #tun: number
  readonly #traffic: Traffic
  readonly #slice: SliceVector
  readonly #bucket = new TokenBucket(RATE, BURST)

  constructor({ memory, start, tun, calls, traffic }: IcmpAnswersOptions) {
    this.#bytes = memory.bytes
    this.#start = start
    this.#tun = tun
    this.#traffic = traffic
    this.#slice = new SliceVector(memory.bytes, 1, calls)
  }

  /**
   * Writes the error about a packet to the device, unless none may be said about it
   * or too many were.
   *
   * @param mtu for tooBig: the longest packet that would pass.
   * @param start of the packet, or of its headers alone.
   */
  write(
    kind: IcmpErrorKind,
    mtu: number,
    start: number,
    length: number,
    table: ForwardingTable,
    nowMs: number,
  ): void {
    const bytes = this.#bytes
    const family = table.family(versionOf(bytes, start))
    if (family === undefined || !mayAnswerWithError(bytes, start, length)) return
    if (!this.#bucket.take(nowMs)) return
    const at = this.#start + VIRTIO_HEADER
    writePlainVirtio(bytes, this.#start)
    const size =
      VIRTIO_HEADER + writeIcmpError(bytes, at, family.address, kind, mtu, start, length)
    this.#slice.count = 0
    this.#slice.add(this.#start, size)
    if (this.#slice.write(this.#tun) === size) this.#traffic.icmpErrors += 1
  }
}
