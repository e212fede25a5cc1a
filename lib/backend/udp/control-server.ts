import { ForwardingTable } from '../../encap/forwarding-table.js'
import {
  type Frame,
  FrameReader,
  PATH_PROTOCOL,
  PathMessage,
  decodeForwarding,
  decodePermit,
  encodeFrame,
  encodeHello,
  encodeKnowledge,
  encodeStatistics,
} from '../../encap/path-control.js'
import { openMemoryFile } from '../../linux/memory-file.js'
import * as libc from '../../linux/libc.js'
import { acceptUnix, sendAll, sendDescriptors } from '../../linux/unix-socket.js'
import type { PacketLoop } from './packet-loop.js'

const NOTHING = Buffer.alloc(0)

export interface ControlServerOptions {
  readonly listener: number
  readonly loop: PacketLoop
  /** By which a daemon recognises what this path is for. */
  readonly label: string
  /** What a successor is given. */
  readonly descriptors: readonly number[]
}

/**
 * The packet path's end of the control socket. One daemon is connected at a
 * time: a new one takes the place of the one before, which is how a restarted
 * daemon takes over a running path.
 */
export class ControlServer {
  readonly #listener: number
  readonly #loop: PacketLoop
  readonly #label: string
  readonly #descriptors: readonly number[]
  readonly #chunk = Buffer.alloc(65_536)
  #connection = -1
  #frames = new FrameReader()
  /** What was told last, as it came. */
  #forwarding: Buffer = NOTHING
  /** True once a daemon has told the path to end. */
  stopping = false

  constructor({ listener, loop, label, descriptors }: ControlServerOptions) {
    this.#listener = listener
    this.#loop = loop
    this.#label = label
    this.#descriptors = descriptors
  }

  /** Descriptor of the connected daemon, or -1, which poll(2) ignores. */
  get connection(): number {
    return this.#connection
  }

  accept(): void {
    const fd = acceptUnix(this.#listener)
    if (fd < 0) return
    this.#disconnect()
    this.#connection = fd
    this.#frames = new FrameReader()
  }

  /** Answers the requests that have arrived. What is not our protocol ends the connection. */
  serve(): void {
    const length = libc.read(this.#connection, this.#chunk, this.#chunk.length)
    if (length < 0) {
      const errno = libc.errno()
      if (errno !== libc.EAGAIN && errno !== libc.EINTR) this.#disconnect()
      return
    }
    if (length === 0) {
      this.#disconnect()
      return
    }
    try {
      for (const frame of this.#frames.push(this.#chunk.subarray(0, length)))
        this.#reply(frame)
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      this.#disconnect()
    }
  }

  #reply(frame: Frame): void {
    const type = Object.values(PathMessage).find(known => known === frame.type)
    if (type === undefined) throw new RangeError(`unknown control message ${frame.type}`)
    const reply = encodeFrame(type, this.#answer(type, frame.payload))
    const isSent =
      type === PathMessage.handover
        ? this.#handOver(reply)
        : sendAll(this.#connection, reply)
    if (!isSent) throw new RangeError('the daemon does not read')
  }

  #handOver(reply: Buffer): boolean {
    const knowledge = openMemoryFile(
      encodeKnowledge(this.#loop.permitUntil, this.#forwarding),
    )
    const descriptors = [...this.#descriptors, knowledge]
    const isSent = sendDescriptors(this.#connection, reply, descriptors)
    libc.close(knowledge)
    return isSent
  }

  #answer(type: (typeof PathMessage)[keyof typeof PathMessage], payload: Buffer): Buffer {
    switch (type) {
      case PathMessage.hello:
        return encodeHello({
          protocol: PATH_PROTOCOL,
          pid: process.pid,
          label: this.#label,
        })
      case PathMessage.stop:
        this.stopping = true
        return NOTHING
      case PathMessage.forwarding:
        this.#loop.useTable(new ForwardingTable(decodeForwarding(payload)))
        this.#forwarding = Buffer.from(payload)
        return NOTHING
      case PathMessage.handover:
        return NOTHING
      case PathMessage.permit:
        this.#loop.permit(decodePermit(payload))
        return NOTHING
      case PathMessage.statistics:
        return encodeStatistics(
          this.#loop.traffic,
          this.#loop.drops.counts,
          this.#loop.drops.offenders(),
        )
    }
  }

  #disconnect(): void {
    if (this.#connection >= 0) libc.close(this.#connection)
    this.#connection = -1
  }
}
