import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'

import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { SOCKADDR, writeSockaddr } from '../../../lib/encap/forwarding-table.js'
import { ReceiveQueue, SendQueue } from '../../../lib/linux/datagrams.js'
import * as libc from '../../../lib/linux/libc.js'
import {
  enableUdpGro,
  hasUdpSegment,
  openUdpSocket,
  routeMtu,
} from '../../../lib/linux/udp-socket.js'
import {
  MAX_SOCKET_PATH,
  acceptUnix,
  listenUnix,
  sendAll,
  sendUnixDatagram,
} from '../../../lib/linux/unix-socket.js'
import { ip } from '../../helpers/packets.js'
import { waitFor } from '../../helpers/wait-for.js'

const SLOTS = 64
const SLOT_SIZE = 128

async function freeUdpPort(address: string): Promise<number> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  socket.bind(0, address)
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  return port
}

function closeLater(t: Test, ...fds: number[]): void {
  t.teardown(() => {
    for (const fd of fds) libc.close(fd)
  })
}

function sockaddr(address: string, port: number): Buffer {
  const name = Buffer.alloc(SOCKADDR)
  writeSockaddr(name, 0, ip(address), port)
  return name
}

/** A message to send: datagrams of one size, made by the kernel of one when there are several. */
interface Message {
  readonly size: number
  readonly segment?: number
  readonly trafficClass?: number
  readonly port?: number
}

/** Two sockets, and a way to send messages from the first to the second. */
async function openPair(t: Test, [here, there] = ['127.0.0.2', '127.0.0.1']) {
  const port = await freeUdpPort(there)
  const from = openUdpSocket(sockaddr(here, here === there ? 0 : port))
  const to = openUdpSocket(sockaddr(there, port))
  closeLater(t, from, to)
  const bytes = Buffer.alloc(SLOTS * SLOT_SIZE * 2)
  const queue = new SendQueue(bytes, { messages: SLOTS, slices: 2 * SLOTS })
  const names = Buffer.alloc(SLOTS * SOCKADDR)
  const send = (messages: readonly Message[]): number => {
    queue.reset()
    for (const [index, message] of messages.entries()) {
      const { size, segment = 0, trafficClass = 0 } = message
      const start = index * SLOT_SIZE * 2
      bytes.fill(index + 1, start, start + size)
      names.set(sockaddr(there, message.port ?? port), index * SOCKADDR)
      const name = libc.addressOf(names) + index * SOCKADDR
      queue.begin(name, !there.includes(':'), segment, trafficClass)
      // In two slices, as a header and a payload are.
      queue.slice(start, size >> 1)
      queue.slice(start + (size >> 1), size - (size >> 1))
    }
    return queue.send(from, 0)
  }
  const received = Buffer.alloc(SLOTS * SLOT_SIZE)
  const receiver = new ReceiveQueue(received, SLOTS, 0, SLOT_SIZE)
  return { from, to, port, send, queue, receiver, received }
}

/** Paths of sockets must be short, which t.testdir's are not. */
function shortDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'fc-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  return directory
}

/** Receives until `count` messages have come, and describes each as `length × byte`. */
async function receive(
  { receiver, received, to }: Awaited<ReturnType<typeof openPair>>,
  count: number,
): Promise<string[]> {
  const seen: string[] = []
  return await waitFor(`${count} datagrams`, () => {
    const arrived = receiver.receive(to, SLOTS)
    for (let index = 0; index < arrived; index++) {
      const length = receiver.lengthOf(index)
      const start = receiver.startOf(index)
      const first = length > 0 ? received[start] : undefined
      const last = length > 0 ? received[start + length - 1] : undefined
      const segment = receiver.segmentSizeOf(index)
      const content = first === last ? String(first) : 'mixed'
      seen.push(`${length} × ${content}${segment > 0 ? ` in ${segment}s` : ''}`)
    }
    return seen.length >= count ? seen : undefined
  })
}

const sizes = (...list: readonly number[]): Message[] => list.map(size => ({ size }))

function sourceOf({ receiver }: { receiver: ReceiveQueue }): number[] {
  const start = receiver.sourceStart(0)
  return [...receiver.names.subarray(start, start + receiver.sourceLength(0))]
}

t.test('batches of one, two and all slots arrive whole, with their source', async t => {
  const pair = await openPair(t)
  const { to, send, receiver } = pair

  t.equal(send(sizes(100)), 1)
  t.strictSame(await receive(pair, 1), ['100 × 1'])
  t.strictSame(sourceOf(pair), [127, 0, 0, 2])
  t.equal(send(sizes(1, SLOT_SIZE)), 2)
  t.strictSame(await receive(pair, 2), ['1 × 1', `${SLOT_SIZE} × 2`])
  const all = Array.from({ length: SLOTS }, (_, index) => index + 1)
  t.equal(send(sizes(...all)), SLOTS)
  t.strictSame(
    await receive(pair, SLOTS),
    all.map(size => `${size} × ${size}`),
  )
  t.equal(receiver.receive(to, SLOTS), 0, 'nothing more is there, and nobody waits')
})

t.test('they do so over IPv6', async t => {
  const pair = await openPair(t, ['::1', '::1'])

  t.equal(pair.send([{ size: 100, trafficClass: 0xb9 }]), 1)

  t.strictSame(await receive(pair, 1), ['100 × 1'])
  t.strictSame(sourceOf(pair), [...ip('::1')])
  t.equal(pair.receiver.trafficClassOf(0), 0xb9)
})

t.test('one message is many datagrams on the way, and one again with GRO', async t => {
  const pair = await openPair(t)
  t.ok(hasUdpSegment(pair.from))

  t.equal(pair.send([{ size: 100, segment: 30, trafficClass: 0x02 }]), 1)
  t.strictSame(await receive(pair, 4), ['30 × 1', '30 × 1', '30 × 1', '10 × 1'])
  t.equal(pair.receiver.trafficClassOf(0), 0x02)

  t.ok(enableUdpGro(pair.to))
  t.equal(pair.send([{ size: 100, segment: 30 }, { size: 50 }]), 2)
  t.strictSame(await receive(pair, 2), ['100 × 1 in 30s', '50 × 2'])
  t.equal(pair.receiver.trafficClassOf(0), 0)
})

t.test('a part of a message can be sent alone', async t => {
  const pair = await openPair(t)
  pair.send([{ size: 100, segment: 50 }])
  t.strictSame(await receive(pair, 2), ['50 × 1', '50 × 1'])

  t.equal(pair.queue.sendAlone(pair.from, 0, 1, 1), 0)
  t.strictSame(await receive(pair, 1), ['50 × 1'])
})

t.test('what does not fit into one batch comes with the next', async t => {
  const pair = await openPair(t)
  pair.send(sizes(...Array.from({ length: SLOTS }, () => 10)))
  pair.send(sizes(20, 21))
  const seen = await receive(pair, SLOTS + 2)
  t.strictSame(seen.slice(-2), ['20 × 1', '21 × 2'])
})

t.test(
  'a datagram longer than its slot is seen to be cut, the next one is whole',
  async t => {
    const pair = await openPair(t)
    pair.send(sizes(SLOT_SIZE + 1, 0, SLOT_SIZE))
    const lengths = (await receive(pair, 3)).map(line => line.split(' ')[0])
    t.strictSame(lengths, ['-1', '0', String(SLOT_SIZE)])
  },
)

t.test('a send stops before the message that fails, and goes on behind it', async t => {
  const pair = await openPair(t)
  const { from, queue } = pair

  // Nobody can be reached at port 0.
  t.equal(pair.send([{ size: 1 }, { size: 2, port: 0 }, { size: 3 }]), 1)
  t.equal(queue.send(from, 1), 0)
  t.equal(libc.errno(), libc.EINVAL)
  t.equal(queue.send(from, 2), 1)

  t.strictSame(await receive(pair, 2), ['1 × 1', '3 × 3'])
})

t.test('the MTU of a route is found, and none where there is no route', t => {
  t.equal(routeMtu(sockaddr('127.0.0.1', 1)), 65_535)
  t.equal(routeMtu(sockaddr('::1', 1)), 65_536)
  t.equal(routeMtu(sockaddr('255.255.255.255', 1)), 0)
  t.end()
})

t.test('an address that is taken, or not ours, is refused', async t => {
  const { port } = await openPair(t)
  t.throws(() => openUdpSocket(sockaddr('127.0.0.1', port)), {
    code: 'EADDRINUSE',
    message: 'bind a UDP socket: address already in use',
  })
  t.throws(() => openUdpSocket(sockaddr('192.0.2.77', port)), { code: 'EADDRNOTAVAIL' })
})

t.test('sockets are closed in the programs that we start', async t => {
  const { from } = await openPair(t)
  const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${from}`, 'utf8'))
  t.ok(parseInt(flags?.[1] ?? '', 8) & 0o2000000, 'O_CLOEXEC')
})

t.test(
  'a listening Unix socket is for its owner alone, and accepts without waiting',
  async t => {
    const path = join(shortDirectory(t), 'path.sock')
    const mask = process.umask(0o022)
    t.teardown(() => process.umask(mask))
    const listener = listenUnix(path)
    closeLater(t, listener)

    t.equal(statSync(path).mode & 0o777, 0o600)
    t.equal(process.umask(0o022), 0o022, 'the umask is as it was')
    t.equal(acceptUnix(listener), -1)
    const client = connect(path)
    t.teardown(() => client.destroy())
    const fd = await waitFor('a connection', () => {
      const accepted = acceptUnix(listener)
      return accepted < 0 ? undefined : accepted
    })
    closeLater(t, fd)
    t.ok(sendAll(fd, Buffer.from('hello')))
    const [said] = (await once(client, 'data')) as [Buffer]
    t.equal(said.toString(), 'hello')
  },
)

t.test(
  'a peer that does not read is not waited for, one that left kills nobody',
  async t => {
    const path = join(shortDirectory(t), 'path.sock')
    const listener = listenUnix(path)
    const client = connect(path)
    t.teardown(() => client.destroy())
    await once(client, 'connect')
    client.pause()
    const fd = acceptUnix(listener)
    closeLater(t, fd, listener)
    const megabyte = Buffer.alloc(1 << 20)

    t.notOk(sendAll(fd, megabyte))
    client.destroy()
    await waitFor('the peer to leave', () =>
      sendAll(fd, Buffer.of(1)) ? undefined : true,
    )
    t.notOk(sendAll(fd, Buffer.of(1)))
  },
)

t.test('a socket path is as long as Linux allows, and no longer', t => {
  const directory = shortDirectory(t)
  const longest = `/tmp/${'x'.repeat(MAX_SOCKET_PATH - 5)}`
  t.throws(
    () => listenUnix(`${longest}x`),
    new RangeError(
      `socket path ${longest}x is 108 bytes long, more than the 107 that Linux allows`,
    ),
  )
  t.throws(() => listenUnix(join(directory, 'no', 'such', 'dir')), { code: 'ENOENT' })
  t.throws(() => listenUnix(directory), { code: 'EADDRINUSE' })
  t.end()
})

t.test('a notification reaches an abstract socket as systemd names it', t => {
  const name = `flanneld-test-${process.pid}`
  const address = Buffer.concat([Buffer.from([1, 0, 0]), Buffer.from(name)])
  const fd = libc.socket(1, 2, 0)
  closeLater(t, fd)
  t.equal(libc.bind(fd, address, address.length), 0)

  sendUnixDatagram(`@${name}`, 'READY=1')

  const bytes = Buffer.alloc(100)
  t.equal(bytes.toString('utf8', 0, libc.read(fd, bytes, bytes.length)), 'READY=1')
  const notifyNobody = (): void => {
    sendUnixDatagram('/nowhere/notify', 'READY=1')
  }
  t.throws(notifyNobody, {
    code: 'ENOENT',
    message: /^notify \/nowhere\/notify: /,
  })
  t.end()
})
