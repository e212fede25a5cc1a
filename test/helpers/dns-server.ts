import { createSocket } from 'node:dgram'
import { once } from 'node:events'

export interface Srv {
  readonly priority: number
  readonly weight: number
  readonly port: number
  readonly target: string
}

/** What a name has; no entry means NXDOMAIN. */
export type Zone = Map<string, readonly Srv[]>

/** A DNS server on loopback that knows SRV records (RFC 1035, RFC 2782). */
export interface DnsServer {
  readonly address: string
  readonly zone: Zone
  /** Names that were asked for. */
  readonly asked: string[]
  /** While true, it says nothing. */
  silent: boolean
  close(): Promise<void>
}

const HEADER_LENGTH = 12
const TYPE_SRV = 33
const CLASS_IN = 1
const NXDOMAIN = 3
/** Response, recursion available. */
const RESPONSE = 0x8080

export async function openDnsServer(): Promise<DnsServer> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const server: DnsServer = {
    address: `127.0.0.1:${socket.address().port}`,
    zone: new Map(),
    asked: [],
    silent: false,
    close: async () => {
      socket.close()
      await once(socket, 'close')
    },
  }
  socket.on('message', (query, { port, address }) => {
    const name = readName(query)
    server.asked.push(name)
    if (!server.silent) socket.send(answer(query, name, server.zone), port, address)
  })
  return server
}

/** The one name that a query asks for. */
function readName(query: Buffer): string {
  const labels: string[] = []
  let at = HEADER_LENGTH
  while (query[at]! > 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]!))
    at += 1 + query[at]!
  }
  return labels.join('.')
}

function answer(query: Buffer, name: string, zone: Zone): Buffer {
  const records = zone.get(name)
  const header = Buffer.alloc(HEADER_LENGTH)
  header.writeUInt16BE(query.readUInt16BE(0), 0)
  header.writeUInt16BE(RESPONSE | (records ? 0 : NXDOMAIN), 2)
  header.writeUInt16BE(1, 4)
  header.writeUInt16BE(records?.length ?? 0, 6)
  const question = Buffer.concat([writeName(name), words(TYPE_SRV, CLASS_IN)])
  const answers = (records ?? []).map(({ priority, weight, port, target }) => {
    const record = Buffer.concat([words(priority, weight, port), writeName(target)])
    // A time to live of 0 s, and a pointer to the name of the question.
    const start = words(0xc000 | HEADER_LENGTH, TYPE_SRV, CLASS_IN, 0, 0, record.length)
    return Buffer.concat([start, record])
  })
  return Buffer.concat([header, question, ...answers])
}

function writeName(name: string): Buffer {
  const labels = name
    .split('.')
    .flatMap(label => [Buffer.of(label.length), Buffer.from(label)])
  return Buffer.concat([...labels, Buffer.of(0)])
}

function words(...numbers: number[]): Buffer {
  const buffer = Buffer.alloc(numbers.length * 2)
  numbers.forEach((number, index) => buffer.writeUInt16BE(number, index * 2))
  return buffer
}
