/**
 * Sends UDP datagrams as it is told, one order a line on standard input, and
 * says `sent` after each. It runs inside a network namespace.
 *
 *   injector-main SOURCE ADDRESS PORT
 */
import { createInterface } from 'node:readline'
import { SOCKADDR, writeSockaddr } from '../../lib/encap/forwarding-table.js'
import { SendQueue } from '../../lib/linux/datagrams.js'
import * as libc from '../../lib/linux/libc.js'
import { openUdpSocket } from '../../lib/linux/udp-socket.js'
import { addressBytes, parseAddress } from '../../lib/subnet/prefix.js'
import type { InjectionOrder } from './injector.js'

const MEMORY = 1 << 20

function sockaddr(address: string, port: number): Buffer {
  const name = Buffer.alloc(SOCKADDR)
  writeSockaddr(name, 0, addressBytes(parseAddress(address)), port)
  return name
}

const [source = '', address = '', port = ''] = process.argv.slice(2)
const socket = openUdpSocket(sockaddr(source, 0))
const name = sockaddr(address, Number(port))
const memory = Buffer.alloc(MEMORY)
const queue = new SendQueue(memory, { messages: 64, slices: 64 })

function send({ packets, trafficClass, asRun }: InjectionOrder): void {
  queue.reset()
  let at = 0
  for (const [index, hex] of packets.entries()) {
    const size = memory.write(hex, at, 'hex')
    if (index === 0 || !asRun)
      queue.begin(libc.addressOf(name), name[0] === 2, asRun ? size : 0, trafficClass)
    queue.slice(at, size)
    at += size
  }
  if (queue.send(socket, 0) !== queue.count) throw libc.lastError('send')
}

createInterface({ input: process.stdin }).on('line', line => {
  send(JSON.parse(line) as InjectionOrder)
  process.stdout.write('sent\n')
})
