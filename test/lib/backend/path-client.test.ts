import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type Socket, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { PathClient } from '../../../lib/backend/udp/path-client.js'
import { PathMessage, encodeFrame, encodeHello } from '../../../lib/encap/path-control.js'

/** A client of something that listens where a packet path should, and may answer anything. */
async function openClient(
  t: Test,
  answer: (socket: Socket) => void,
): Promise<PathClient> {
  const directory = mkdtempSync(join(tmpdir(), 'fc-'))
  const path = join(directory, 'path.sock')
  const server = createServer(socket => {
    socket.on('error', () => undefined)
    socket.once('data', () => {
      answer(socket)
    })
  }).listen(path)
  await once(server, 'listening')
  const client = await PathClient.connect(path)
  t.teardown(() => {
    client?.close()
    server.close()
    rmSync(directory, { recursive: true })
  })
  if (client === undefined) throw new Error('nobody listens')
  return client
}

t.test('an answer in two pieces is put together', async t => {
  const hello = { protocol: 1, pid: 7, label: 'udp' }
  const frame = encodeFrame(PathMessage.hello, encodeHello(hello))
  const client = await openClient(t, socket => {
    socket.write(frame.subarray(0, 3), () => socket.write(frame.subarray(3)))
  })
  t.strictSame(await client.hello(), hello)
})

t.test(
  'whatever answers in the place of a packet path, the error is ERR_PATH',
  async t => {
    const nonsense: Record<string, (socket: Socket) => void> = {
      'another message': socket =>
        socket.write(encodeFrame(PathMessage.stop, Buffer.alloc(0))),
      'a hello that is cut': socket =>
        socket.write(encodeFrame(PathMessage.hello, Buffer.of(1))),
      'a frame of 4 GiB': socket => socket.write(Buffer.alloc(5, 0xff)),
      'the end of the connection': socket => socket.end(),
    }
    for (const [name, answer] of Object.entries(nonsense)) {
      const client = await openClient(t, answer)
      await t.rejects(client.hello(), { code: 'ERR_PATH' }, name)
    }
  },
)

t.test('what never answers is given up', async t => {
  const client = await openClient(t, () => undefined)
  await t.rejects(client.statistics(), { code: 'ERR_PATH' })
  await t.rejects(client.permit(1), { code: 'ERR_PATH' }, 'and not asked again')
})

t.test('where nobody listens there is no client', async t => {
  t.equal(await PathClient.connect('/nowhere/path.sock'), undefined)
})
