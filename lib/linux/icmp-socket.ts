import type raw from 'raw-socket'
import type { RawSocket } from 'raw-socket'

type RawModule = typeof raw
type IpFamily = 4 | 6

/** Longest packet that is read whole; of an error the first bytes are enough. */
const BUFFER_BYTES = 65_535

/** Levels, options and values of setsockopt(2): linux/in.h, in6.h, icmp.h, icmpv6.h. */
const IPPROTO_IP = 0
const IP_MTU_DISCOVER = 10
const IPPROTO_IPV6 = 41
const IPV6_MTU_DISCOVER = 23
const PMTUDISC_PROBE = 3
const SOL_RAW = 255
const ICMP_FILTER = 1
const IPPROTO_ICMPV6 = 58
const ICMP6_FILTER = 1

/** Types that we read: what is not among them costs no wake-up. */
const ECHO_REPLY = { 4: 0, 6: 129 } as const
const ERRORS = { 4: [3], 6: [1, 2] } as const

/**
 * ICMP of one family, sent without fragments whatever path MTU the kernel has
 * learnt. raw-socket works in the main thread alone and has to be compiled at
 * installation, so it is an optional package.
 */
export class IcmpSocket {
  readonly #socket: RawSocket

  private constructor(socket: RawSocket) {
    this.#socket = socket
  }

  /**
   * @param onPacket gets every answer and error that comes to this host, with its
   *   IP header in IPv4 alone; the bytes are valid during the call.
   * @param onError is called once: nothing comes any more.
   * Throws Error when raw-socket is not installed or the process may not open raw
   * sockets.
   */
  static async open(
    family: IpFamily,
    onPacket: (packet: Buffer, source: string) => void,
    onError: (error: Error) => void,
  ): Promise<IcmpSocket> {
    const module = await loadRawSocket()
    const socket = module.createSocket({
      protocol: family === 4 ? module.Protocol.ICMP : module.Protocol.ICMPv6,
      addressFamily: family === 4 ? module.AddressFamily.IPv4 : module.AddressFamily.IPv6,
      bufferSize: BUFFER_BYTES,
    })
    for (const [level, option, value] of optionsOf(family))
      socket.setOption(level, option, value, value.length)
    socket.on('message', onPacket)
    socket.on('error', onError)
    return new IcmpSocket(socket)
  }

  /** Resolves with why it could not be sent; undefined when it was. */
  async send(packet: Buffer, address: string): Promise<string | undefined> {
    return await new Promise(resolve => {
      this.#socket.send(packet, 0, packet.length, address, error => {
        resolve(error?.message)
      })
    })
  }

  close(): void {
    this.#socket.close()
  }
}

function optionsOf(family: IpFamily): (readonly [number, number, Buffer])[] {
  const probe = Buffer.alloc(4)
  probe.writeInt32LE(PMTUDISC_PROBE)
  const types = [ECHO_REPLY[family], ...ERRORS[family]]
  // A bit that is set keeps its type out.
  const filter = Buffer.alloc(family === 4 ? 4 : 32, 0xff)
  for (const type of types)
    filter[type >> 3] = (filter[type >> 3] ?? 0) & ~(1 << (type & 7))
  return family === 4
    ? [
        [IPPROTO_IP, IP_MTU_DISCOVER, probe],
        [SOL_RAW, ICMP_FILTER, filter],
      ]
    : [
        [IPPROTO_IPV6, IPV6_MTU_DISCOVER, probe],
        [IPPROTO_ICMPV6, ICMP6_FILTER, filter],
      ]
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
