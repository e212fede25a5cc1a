/** Echo requests, and what comes back of them: RFC 792, RFC 1191, RFC 4443. */
import { internetChecksum } from '../encap/checksum.js'
import {
  DESTINATION,
  DESTINATION6,
  IPV4_HEADER,
  IPV6_HEADER,
  NEXT_HEADER,
  PROTOCOL,
} from '../encap/ip.js'
import { type Family, addressFromBytes, formatAddress } from '../subnet/prefix.js'

const ICMP_HEADER = 8
const TOKEN_BYTES = 8

const ECHO_REQUEST = { 4: 8, 6: 128 } as const
const ECHO_REPLY = { 4: 0, 6: 129 } as const
const PROTOCOL_ICMP = { 4: 1, 6: 58 } as const
const PROTOCOL_UDP = 17

/** Shortest packet of a request, IP header included. */
export const LEAST_SIZE = {
  4: IPV4_HEADER + ICMP_HEADER + TOKEN_BYTES,
  6: IPV6_HEADER + ICMP_HEADER + TOKEN_BYTES,
} as const

export interface Echo {
  readonly identifier: number
  readonly sequence: number
  /** Known to us alone: an answer without it is a forgery. */
  readonly token: bigint
}

/**
 * @param size of the whole packet, the IP header that the kernel adds included.
 * @returns the ICMP message; in IPv6 the kernel writes the checksum.
 */
export function echoRequest(family: Family, echo: Echo, size: number): Buffer {
  const header = family === 4 ? IPV4_HEADER : IPV6_HEADER
  const message = Buffer.alloc(Math.max(size, LEAST_SIZE[family]) - header)
  message[0] = ECHO_REQUEST[family]
  message.writeUInt16BE(echo.identifier, 4)
  message.writeUInt16BE(echo.sequence, 6)
  message.writeBigUInt64BE(echo.token, ICMP_HEADER)
  if (family === 4) message.writeUInt16BE(internetChecksum(message, 0, message.length), 2)
  return message
}

export interface EchoReply extends Echo {
  readonly kind: 'reply'
}

/** What a packet of ours met. */
export type IcmpTrouble = 'noPort' | 'noProtocol' | 'refused' | 'unreachable' | 'tooBig'

export interface IcmpFailure {
  readonly kind: 'failure'
  readonly trouble: IcmpTrouble
  /** Of tooBig: the longest packet that goes on; 0 when that was not told. */
  readonly mtu: number
  /** What our packet was. */
  readonly destination: string
  readonly protocol: number
  /** Of UDP. */
  readonly port: number | undefined
  /** Of an echo request. */
  readonly echo: Pick<Echo, 'identifier' | 'sequence'> | undefined
}

/**
 * Reads what came to a raw socket; undefined for what is of no interest or is
 * none of ICMP's messages.
 *
 * @param packet in IPv4 with the IP header, in IPv6 without.
 */
export function readIcmp(
  family: Family,
  packet: Buffer,
): EchoReply | IcmpFailure | undefined {
  const start = family === 4 ? ((packet[0] ?? 0) & 15) * 4 : 0
  const message = packet.subarray(start)
  if (message.length < ICMP_HEADER) return undefined
  if (message[0] === ECHO_REPLY[family]) {
    if (message.length < ICMP_HEADER + TOKEN_BYTES) return undefined
    const token = message.readBigUInt64BE(ICMP_HEADER)
    return { kind: 'reply', ...readEcho(message), token }
  }
  const trouble = TROUBLES[family](message[0] ?? 0, message[1] ?? 0)
  if (trouble === undefined) return undefined
  const mtu = family === 4 ? message.readUInt16BE(6) : message.readUInt32BE(4)
  const quoted = readQuoted(family, message.subarray(ICMP_HEADER))
  return quoted && { kind: 'failure', trouble, mtu, ...quoted }
}

/** By type and code. */
const TROUBLES = {
  4: (type: number, code: number): IcmpTrouble | undefined => {
    if (type !== 3) return undefined
    if (code === 2) return 'noProtocol'
    if (code === 3) return 'noPort'
    if (code === 4) return 'tooBig'
    return [9, 10, 13].includes(code) ? 'refused' : 'unreachable'
  },
  6: (type: number, code: number): IcmpTrouble | undefined => {
    if (type === 2) return 'tooBig'
    if (type !== 1) return undefined
    if (code === 4) return 'noPort'
    return [1, 5, 6].includes(code) ? 'refused' : 'unreachable'
  },
} as const

function readEcho(message: Buffer): Pick<Echo, 'identifier' | 'sequence'> {
  return { identifier: message.readUInt16BE(4), sequence: message.readUInt16BE(6) }
}

/** The start of our packet, which every error carries. */
function readQuoted(
  family: Family,
  quoted: Buffer,
): Omit<IcmpFailure, 'kind' | 'trouble' | 'mtu'> | undefined {
  const header = family === 4 ? ((quoted[0] ?? 0) & 15) * 4 : IPV6_HEADER
  if (header < IPV4_HEADER || quoted.length < header + ICMP_HEADER) return undefined
  const protocol = quoted[family === 4 ? PROTOCOL : NEXT_HEADER] ?? 0
  const at = family === 4 ? DESTINATION : DESTINATION6
  const address = addressFromBytes(quoted.subarray(at, at + (family === 4 ? 4 : 16)))
  const inner = quoted.subarray(header)
  const isEcho = protocol === PROTOCOL_ICMP[family] && inner[0] === ECHO_REQUEST[family]
  return {
    destination: formatAddress(address),
    protocol,
    port: protocol === PROTOCOL_UDP ? inner.readUInt16BE(2) : undefined,
    echo: isEcho ? readEcho(inner) : undefined,
  }
}
