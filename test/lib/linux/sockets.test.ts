import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'

import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { writeSockaddrIn } from '../../../lib/encap/forwarding-table.js'
import { ReceiveVector, SendVector } from '../../../lib/linux/datagrams.js'
import * as libc from '../../../lib/linux/libc.js'
import { openUdpSocket } from '../../../lib/linux/udp-socket.js'
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

async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
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

/** Two sockets, and a way to send a batch from the first to the second. */
async function openPair(t: Test) {
  const port = await freeUdpPort()
  const from = openUdpSocket('127.0.0.2', port)
  const to = openUdpSocket('127.0.0.1', port)
  closeLater(t, from, to)
  const sender = new SendVector(SLOTS)
  const names = Buffer.alloc(SLOTS * 16)
  const bytes = Buffer.alloc(SLOTS * SLOT_SIZE * 2)
  const send = (
    sizes: readonly number[],
    toPort: (index: number) => number = () => port,
  ): number => {
    for (const [index, size] of sizes.entries()) {
      const start = index * SLOT_SIZE * 2
      bytes.fill(index + 1, start, start + size)
      writeSockaddrIn(names, index * 16, ip('127.0.0.1'), toPort(index))
      sender.set(
        index,
        libc.addressOf(names) + index * 16,
        libc.addressOf(bytes) + start,
        size,
      )
    }
    return sender.send(from, 0, sizes.length)
  }
  return { from, to, port, send, sender, receiver: new ReceiveVector(SLOTS, SLOT_SIZE) }
}

/** Paths of sockets must be short, which t.testdir's are not. */
function shortDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'fc-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  return directory
}

/** Receives until `count` datagrams have come, and describes each as `length × byte`. */
async function receive(
  receiver: ReceiveVector,
  fd: number,
  count: number,
): Promise<string[]> {
  const seen: string[] = []
  return await waitFor(`${count} datagrams`, () => {
    const arrived = receiver.receive(fd)
    for (let index = 0; index < arrived; index++) {
      const length = receiver.length(index)
      const first = length > 0 ? receiver.slab[index * SLOT_SIZE] : undefined
      const last = length > 0 ? receiver.slab[index * SLOT_SIZE + length - 1] : undefined
      seen.push(`${length} × ${first === last ? first : 'mixed'}`)
    }
    return seen.length >= count ? seen : undefined
  })
}

t.test('batches of one, two and all slots arrive whole, with their source', async t => {
  const { to, send, receiver } = await openPair(t)

  t.equal(send([100]), 1)
  t.strictSame(await receive(receiver, to, 1), ['100 × 1'])
  t.equal(receiver.source(0), ip('127.0.0.2'))
  t.equal(send([1, SLOT_SIZE]), 2)
  t.strictSame(await receive(receiver, to, 2), ['1 × 1', `${SLOT_SIZE} × 2`])
  const sizes = Array.from({ length: SLOTS }, (_, index) => index + 1)
  t.equal(send(sizes), SLOTS)
  t.strictSame(
    await receive(receiver, to, SLOTS),
    sizes.map(size => `${size} × ${size}`),
  )
  t.equal(receiver.receive(to), 0, 'nothing more is there, and nobody waits')
})

t.test('what does not fit into one batch comes with the next', async t => {
  const { to, send, receiver } = await openPair(t)
  send(Array.from({ length: SLOTS }, () => 10))
  send([20, 21])
  const seen = await receive(receiver, to, SLOTS + 2)
  t.strictSame(seen.slice(-2), ['20 × 1', '21 × 2'])
})

t.test(
  'a datagram longer than its slot is seen to be cut, the next one is whole',
  async t => {
    const { to, send, receiver } = await openPair(t)
    send([SLOT_SIZE + 1, 0, SLOT_SIZE])
    const lengths = (await receive(receiver, to, 3)).map(line => line.split(' ')[0])
    t.strictSame(lengths, ['-1', '0', String(SLOT_SIZE)])
  },
)

t.test('a send stops before the message that fails, and goes on behind it', async t => {
  const { from, to, port, send, sender, receiver } = await openPair(t)

  // Nobody can be reached at port 0.
  t.equal(
    send([1, 2, 3], index => (index === 1 ? 0 : port)),
    1,
  )
  t.equal(sender.send(from, 1, 3), 0)
  t.equal(sender.send(from, 2, 3), 1)

  t.strictSame(await receive(receiver, to, 2), ['1 × 1', '3 × 3'])
})

t.test('an address that is taken, or not ours, is refused with the address', async t => {
  const { port } = await openPair(t)
  t.throws(() => openUdpSocket('127.0.0.1', port), {
    code: 'EADDRINUSE',
    message: `bind UDP 127.0.0.1:${port}: address already in use`,
  })
  t.throws(() => openUdpSocket('192.0.2.77', port), { code: 'EADDRNOTAVAIL' })
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
