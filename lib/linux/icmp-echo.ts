import type raw from 'raw-socket'
import type { RawSocket } from 'raw-socket'

type RawModule = typeof raw

/** ICMP (RFC 792): type, code, checksum, identifier, sequence number; then our data. */
const HEADER_BYTES = 8
const DATA_BYTES = 24
const ECHO_REQUEST = 8
const ECHO_REPLY = 0

interface Waiting {
  readonly address: string
  readonly sentAt: number
  readonly answer: (milliseconds: number | undefined) => void
}

/**
 * Pings IPv4 addresses over one raw socket. raw-socket works in the main thread
 * alone and has to be compiled at installation, so it is an optional package.
 */
export class IcmpEcho {
  readonly #raw: RawModule
  readonly #socket: RawSocket
  readonly #identifier = process.pid & 0xffff
  readonly #waiting = new Map<number, Waiting>()
  #sequence = 0

  private constructor(module: RawModule) {
    this.#raw = module
    this.#socket = module.createSocket({ protocol: module.Protocol.ICMP })
    this.#socket.on('message', (packet, source) => {
      this.#receive(packet, source)
    })
    // What a single packet meets is told by `send`.
    this.#socket.on('error', () => undefined)
  }

  /** Throws Error when raw-socket is not installed or the process may not open raw sockets. */
  static async open(): Promise<IcmpEcho> {
    return new IcmpEcho(await loadRawSocket())
  }

  /** Milliseconds until the echo came back; undefined when it did not within `timeoutMs`. */
  async ping(address: string, timeoutMs: number): Promise<number | undefined> {
    const sequence = this.#sequence++ & 0xffff
    const request = this.#request(sequence)
    return await new Promise(resolve => {
      const answer = (milliseconds: number | undefined): void => {
        clearTimeout(timer)
        this.#waiting.delete(sequence)
        resolve(milliseconds)
      }
      const timer = setTimeout(answer, timeoutMs, undefined)
      this.#waiting.set(sequence, { address, sentAt: performance.now(), answer })
      this.#socket.send(request, 0, request.length, address, error => {
        if (error !== null) answer(undefined)
      })
    })
  }

  #request(sequence: number): Buffer {
    const packet = Buffer.alloc(HEADER_BYTES + DATA_BYTES)
    packet.writeUInt8(ECHO_REQUEST, 0)
    packet.writeUInt16BE(this.#identifier, 4)
    packet.writeUInt16BE(sequence, 6)
    this.#raw.writeChecksum(packet, 2, this.#raw.createChecksum(packet))
    return packet
  }

  /** Every ICMP packet that this host gets comes by here, with its IPv4 header. */
  #receive(packet: Buffer, source: string): void {
    const start = ((packet[0] ?? 0) & 0x0f) * 4
    if (packet.length < start + HEADER_BYTES) return
    if (packet.readUInt8(start) !== ECHO_REPLY) return
    if (packet.readUInt16BE(start + 4) !== this.#identifier) return
    const waiting = this.#waiting.get(packet.readUInt16BE(start + 6))
    if (waiting?.address !== source) return
    waiting.answer(performance.now() - waiting.sentAt)
  }

  close(): void {
    for (const { answer } of [...this.#waiting.values()]) answer(undefined)
    this.#socket.close()
  }
}

async function loadRawSocket(): Promise<RawModule> {
  try {
    const module = await import('raw-socket')
    return module.default
  } catch (cause) {
    throw new Error(
      'the optional package raw-socket is not installed or not compiled (npm run build compiles it where python3, make and g++ are)',
      { cause },
    )
  }
}
