import { execFileSync } from 'node:child_process'
import { readFileSync, symlinkSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { openEmbeddedEtcd } from '../../cmd/flanneld/embedded-etcd.js'
import { StartError } from '../../cmd/flanneld/start-error.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { ownDirectory } from '../helpers/own-directory.js'

const clock = systemClock(() => performance.now())
const silent = pino({ level: 'silent' })

/** A port that nothing listens on, unless somebody else is as quick. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

async function freeListen(): Promise<URL> {
  return new URL(`http://127.0.0.1:${await freePort()}`)
}

t.test(
  'the embedded etcd keeps what is stored over a restart on another port',
  async t => {
    const dataDir = join(ownDirectory(t), 'etcd')
    const first = await openEmbeddedEtcd({
      listen: await freeListen(),
      dataDir,
      clock,
      log: silent,
    })
    const before = new EtcdRegistry({ endpoints: [first.endpoint] })
    await before.commit([], [{ kind: 'put', key: '/a', value: 'kept' }])
    before.close()
    await first.close()
    await first.close()

    const second = await openEmbeddedEtcd({
      listen: await freeListen(),
      dataDir,
      clock,
      log: silent,
    })
    t.teardown(() => second.close())
    const after = new EtcdRegistry({ endpoints: [second.endpoint] })
    t.teardown(() => {
      after.close()
    })

    const { entry } = await after.get('/a')

    t.equal(entry?.value, 'kept')
    await t.rejects(fetch(first.endpoint), 'the first one is gone')
  },
)

t.test('an etcd on all addresses is reached on the loopback address', async t => {
  const listen = new URL(`http://0.0.0.0:${await freePort()}`)

  const etcd = await openEmbeddedEtcd({
    listen,
    dataDir: join(ownDirectory(t), 'etcd'),
    clock,
    log: silent,
  })
  t.teardown(() => etcd.close())

  t.equal(etcd.endpoint, `http://127.0.0.1:${listen.port}`)
})

t.test('a port that is in use is named, with what can be done', async t => {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const dataDir = join(ownDirectory(t), 'etcd')

  const opening = openEmbeddedEtcd({
    listen: new URL(`http://127.0.0.1:${port}`),
    dataDir,
    clock,
    log: silent,
  })

  await t.rejects(opening, {
    name: 'StartError',
    message: `cannot run an etcd on 127.0.0.1:${port}: something listens there already`,
  })
})

t.test('a machine without etcd is told which package to install', async t => {
  const directory = ownDirectory(t)
  symlinkSync('/usr/bin/setpriv', join(directory, 'setpriv'))
  const path = process.env['PATH']
  process.env['PATH'] = directory
  t.teardown(() => (process.env['PATH'] = path))

  const opening = openEmbeddedEtcd({
    listen: await freeListen(),
    dataDir: join(directory, 'data'),
    clock,
    log: silent,
  })

  await t.rejects(opening, {
    name: 'StartError',
    message: 'the program etcd is not installed: apt-get install etcd-server',
  })
})

t.test("an etcd that cannot start is quoted, with etcd's own reason alone", async t => {
  // An address of documentation (RFC 5737) that no interface has.
  const opening = openEmbeddedEtcd({
    listen: new URL('http://192.0.2.77:2379'),
    dataDir: join(ownDirectory(t), 'etcd'),
    clock,
    log: silent,
  })

  const error: unknown = await opening.catch((error: unknown) => error)

  t.type(error, StartError)
  t.equal(
    (error as Error).message,
    'etcd ended: listen tcp 192.0.2.77:2379: bind: cannot assign requested address',
  )
})

t.test('an etcd that ends by itself is reported', async t => {
  let report: (line: string) => void = () => undefined
  const reported = new Promise<string>(resolve => (report = resolve))
  const etcd = await openEmbeddedEtcd({
    listen: await freeListen(),
    dataDir: join(ownDirectory(t), 'etcd'),
    clock,
    log: pino({ level: 'error' }, { write: report }),
  })
  t.teardown(() => etcd.close())

  process.kill(childNamed('etcd'), 'SIGKILL')

  t.match(await reported, 'the embedded etcd ended; restart flanneld')
})

t.test('the etcd ends with the process that opened it, however that ends', async t => {
  const module = new URL('../../cmd/flanneld/embedded-etcd.js', import.meta.url).href
  const listen = await freeListen()
  const options = {
    dataDir: join(ownDirectory(t), 'etcd'),
  }

  execFileSync(process.execPath, [
    '--input-type=module',
    '--eval',
    `import { openEmbeddedEtcd } from ${JSON.stringify(module)}
     const clock = { now: () => performance.now(), sleep: ms => new Promise(r => setTimeout(r, ms)) }
     await openEmbeddedEtcd({ listen: new URL('${listen.href}'), ...${JSON.stringify(options)}, clock, log: { debug() {} } })
     process.exit(0)`,
  ])

  while (await isOpen(listen)) await clock.sleep(20)
  t.pass('the port is free again')
})

function childNamed(name: string): number {
  const children = `/proc/${process.pid}/task/${process.pid}/children`
  const found = readFileSync(children, 'utf8')
    .split(' ')
    .filter(Boolean)
    .find(pid => readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === name)
  if (found === undefined) throw new Error(`no child is named ${name}`)
  return Number(found)
}

async function isOpen(url: URL): Promise<boolean> {
  return await fetch(url).then(
    () => true,
    () => false,
  )
}
