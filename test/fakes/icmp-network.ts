import type { IcmpSocket } from '../../lib/linux/icmp-socket.js'
import type { ManualClock } from './manual-clock.js'
import { addressBytes, parseAddress } from '../../lib/subnet/prefix.js'
import { ipPacket } from '../helpers/packets.js'

type OnPacket = Parameters<typeof IcmpSocket.open>[1]

/** What a packet to an address meets. */
export interface Way {
  /** Milliseconds to there and back; undefined for no answer. */
  readonly roundTripMs?: number
  /** The longest packet that arrives. */
  readonly mtu?: number
  /** A router tells what is too long. */
  readonly isTold?: boolean
  /** Of so many packets one is lost. */
  readonly oneLostOf?: number
}

/** Hosts of IPv4 that answer pings, on a clock that a test moves. */
export class IcmpNetwork {
  readonly ways = new Map<string, Way>()
  /** When each packet was sent. */
  readonly sent: { readonly at: number; readonly to: string; readonly size: number }[] =
    []
  readonly #clock: ManualClock
  #onPacket: OnPacket = () => undefined

  constructor(clock: ManualClock) {
    this.#clock = clock
  }

  readonly open = (family: number, onPacket: OnPacket): Promise<IcmpSocket> => {
    if (family === 4) this.#onPacket = onPacket
    const socket = {
      send: (message: Buffer, to: string): Promise<string | undefined> => {
        this.#send(message, to)
        return Promise.resolve(undefined)
      },
      close: () => undefined,
    }
    return Promise.resolve(socket as unknown as IcmpSocket)
  }

  /** An ICMP error, as a host or router sends it. @param quoted our packet. */
  tell(type: number, code: number, mtu: number, quoted: Buffer, source: string): void {
    const message = Buffer.alloc(8)
    message[0] = type
    message[1] = code
    message.writeUInt16BE(mtu, 6)
    const payload = Buffer.concat([message, quoted.subarray(0, 28)])
    this.#onPacket(
      ipPacket({ source, destination: '192.0.2.1', protocol: 1, payload }),
      source,
    )
  }

  #send(message: Buffer, to: string): void {
    const size = message.length + 20
    this.sent.push({ at: this.#clock.now(), to, size })
    const way = this.ways.get(to)
    if (way === undefined) return
    const packet = ipPacket({
      source: '192.0.2.1',
      destination: to,
      protocol: 1,
      payload: message,
    })
    if (size > (way.mtu ?? 1500)) {
      if (way.isTold === true) this.tell(3, 4, way.mtu ?? 0, packet, '192.0.2.254')
      return
    }
    const { oneLostOf, roundTripMs } = way
    const count = this.sent.filter(each => each.to === to).length
    if (oneLostOf !== undefined && count % oneLostOf === 0) return
    if (roundTripMs === undefined) return
    const answer = Buffer.from(packet)
    answer.set(addressBytes(parseAddress(to)), 12)
    answer[20] = 0
    void this.#clock.sleep(roundTripMs).then(() => {
      this.#onPacket(answer, to)
    })
  }
}
