import { randomBytes, randomInt } from 'node:crypto'
import { LEAST_SIZE, echoRequest, readIcmp } from './icmp.js'
import { IcmpSocket } from '../linux/icmp-socket.js'

interface Waiting {
  readonly address: string
  readonly sentAt: number
  readonly answer: (milliseconds: number | undefined) => void
}

/** Pings IPv4 addresses over one raw socket. */
export class IcmpEcho {
  #socket: IcmpSocket | undefined
  readonly #identifier = randomInt(1 << 16)
  readonly #token = randomBytes(8).readBigUInt64BE()
  readonly #waiting = new Map<number, Waiting>()
  #sequence = 0

  /** Throws Error when raw-socket is not installed or the process may not open raw sockets. */
  static async open(): Promise<IcmpEcho> {
    const echo = new IcmpEcho()
    echo.#socket = await IcmpSocket.open(
      4,
      (packet, source) => {
        echo.#receive(packet, source)
      },
      // Nothing comes any more: what is waited for runs into its time limit.
      () => undefined,
    )
    return echo
  }

  /** Milliseconds until the echo came back; undefined when it did not within `timeoutMs`. */
  async ping(address: string, timeoutMs: number): Promise<number | undefined> {
    const sequence = this.#sequence++ & 0xffff
    const echo = { identifier: this.#identifier, sequence, token: this.#token }
    const request = echoRequest(4, echo, LEAST_SIZE[4])
    return await new Promise(resolve => {
      const answer = (milliseconds: number | undefined): void => {
        clearTimeout(timer)
        this.#waiting.delete(sequence)
        resolve(milliseconds)
      }
      const timer = setTimeout(answer, timeoutMs, undefined)
      this.#waiting.set(sequence, { address, sentAt: performance.now(), answer })
      void this.#socket?.send(request, address).then(why => {
        if (why !== undefined) answer(undefined)
      })
    })
  }

  #receive(packet: Buffer, source: string): void {
    const icmp = readIcmp(4, packet)
    if (icmp?.kind !== 'reply' || icmp.identifier !== this.#identifier) return
    const waiting = this.#waiting.get(icmp.sequence)
    if (waiting?.address !== source || icmp.token !== this.#token) return
    waiting.answer(performance.now() - waiting.sentAt)
  }

  close(): void {
    for (const { answer } of [...this.#waiting.values()]) answer(undefined)
    this.#socket?.close()
  }
}
