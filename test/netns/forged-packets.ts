import type { LabHost, LabNode } from '../../cmd/flannelctl/lab/host.js'
import { ipv4Packet } from '../helpers/packets.js'
import { referenceChecksum } from '../reference/checksum.js'

const PROTOCOL_ICMP = 1
const ECHO_REQUEST = 8

/** A whole IPv4 packet that asks for an echo: what a datagram between hosts carries. */
export function echoRequest(source: string, destination: string): Buffer {
  const payload = Buffer.alloc(8)
  payload[0] = ECHO_REQUEST
  payload.writeUInt16BE(referenceChecksum(payload), 2)
  return Buffer.from(
    ipv4Packet({ source, destination, payload, protocol: PROTOCOL_ICMP }),
  )
}

const SEND = `
const socket = require('node:dgram').createSocket('udp4')
const [packet, address, port] = process.argv.slice(1)
socket.send(Buffer.from(packet, 'hex'), Number(port), address, () => socket.close())`

/** Sends a packet to the packet path of a host, from whatever node, as an attacker would. */
export async function sendDatagram(
  from: LabNode,
  to: LabHost,
  packet: Buffer,
  port = 8285,
): Promise<void> {
  const args = [packet.toString('hex'), to.address, String(port)]
  await from.run([process.execPath, '-e', SEND, ...args])
}

/** How many echo requests a node was asked since it exists. */
export async function echoesSeen(node: LabNode): Promise<number> {
  const text = await node.run(['cat', '/proc/net/snmp'])
  const [names = [], values = []] = text
    .split('\n')
    .filter(line => line.startsWith('Icmp:'))
    .map(line => line.split(' '))
  return Number(values[names.indexOf('InEchos')])
}
