/**
 * A load of small datagrams: as many as this machine can, 64 with each call, each
 * an own datagram to the kernel. iperf3 needs a call for each and is the limit
 * itself.
 *
 *   udp-load send SOURCE ADDRESS PORT SIZE SECONDS     prints how many were sent
 *   udp-load receive ADDRESS PORT [MS] prints `ready`, then how many came until MS without any
 */
import { SOCKADDR, writeSockaddr } from '../../lib/encap/forwarding-table.js'
import { ReceiveQueue, SendQueue } from '../../lib/linux/datagrams.js'
import * as libc from '../../lib/linux/libc.js'
import { openUdpSocket } from '../../lib/linux/udp-socket.js'
import { addressBytes, parseAddress } from '../../lib/subnet/prefix.js'

const BATCH = 64
const SLOT = 2048
const POLLIN = 1

/** So long after the last datagram the load is over, in ms, unless more is given. */
const QUIET_MS = 1000

function sockaddr(address: string, port: string): Buffer {
  const name = Buffer.alloc(SOCKADDR)
  writeSockaddr(name, 0, addressBytes(parseAddress(address)), Number(port))
  return name
}

function send([
  source = '',
  address = '',
  port = '',
  size = '',
  seconds = '',
]: readonly string[]): void {
  const fd = openUdpSocket(sockaddr(source, '0'))
  const name = sockaddr(address, port)
  const queue = new SendQueue(Buffer.alloc(SLOT), { messages: BATCH, slices: BATCH })
  for (let index = 0; index < BATCH; index++) {
    queue.begin(libc.addressOf(name), true, 0, 0)
    queue.slice(0, Number(size))
  }
  const end = performance.now() + Number(seconds) * 1000
  let sent = 0
  while (performance.now() < end) sent += queue.send(fd, 0)
  console.log(String(sent))
}

function receive([address = '', port = '', quiet]: readonly string[]): void {
  const quietMs = Number(quiet ?? QUIET_MS)
  const fd = openUdpSocket(sockaddr(address, port))
  const queue = new ReceiveQueue(Buffer.alloc(BATCH * SLOT), BATCH, 0, SLOT)
  const pollfd = Buffer.alloc(8)
  pollfd.writeInt32LE(fd, 0)
  pollfd.writeInt16LE(POLLIN, 4)
  process.stdout.write('ready\n')
  let received = 0
  for (;;) {
    const ready = libc.poll(pollfd, 1, received === 0 ? 20_000 : quietMs)
    if (ready === 0) break
    received += queue.receive(fd, BATCH)
  }
  console.log(String(received))
}

const [mode, ...words] = process.argv.slice(2)
if (mode === 'send') send(words)
else receive(words)
