import { readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Cleanup } from '../../../cmd/flanneld/cleanup.js'
import { writeFileAtomic } from '../../../cmd/flanneld/files.js'
import {
  confirmIdentity,
  obtainIdentity,
  renewIdentity,
} from '../../../cmd/flanneld/identity.js'
import {
  checkSocketName,
  lockPlaces,
  makePlaces,
  networkDirectory,
  placesOf,
  scopeName,
} from '../../../cmd/flanneld/places.js'
import { readPreviousSubnetEnv } from '../../../cmd/flanneld/subnet-env-file.js'
import { parsePrefix } from '../../../lib/subnet/prefix.js'
import { formatSubnet } from '../../../lib/subnet/subnet-key.js'
import { collectLog, silent } from '../../helpers/log.js'
import { fc, holds } from '../../helpers/property.js'

t.test('a file is replaced in one step, with its mode whatever the umask', async t => {
  const path = join(t.testdir(), 'run', 'flannel', 'subnet.env')
  const mask = process.umask(0o077)
  t.teardown(() => process.umask(mask))

  await writeFileAtomic(path, 'first\n', 0o644)
  const before = statSync(path).ino
  await writeFileAtomic(path, 'second\n', 0o644)

  t.equal(readFileSync(path, 'utf8'), 'second\n')
  t.equal(statSync(path).mode & 0o777, 0o644)
  t.not(statSync(path).ino, before, 'a reader of the old file keeps it whole')
  t.strictSame(readdirSync(join(path, '..')), ['subnet.env'], 'nothing is left behind')
})

t.test('a reader sees the old text or the new, never a part', async t => {
  const path = join(t.testdir(), 'subnet.env')
  const texts = ['a', 'b'].map(letter => letter.repeat(100_000))
  await writeFileAtomic(path, texts[0] ?? '', 0o644)
  const seen = new Set<number>()
  for (let turn = 0; turn < 20; turn++) {
    const write = writeFileAtomic(path, texts[turn % 2] ?? '', 0o644)
    const state = { writing: true }
    const written = write.finally(() => (state.writing = false))
    while (state.writing) {
      seen.add(texts.indexOf(readFileSync(path, 'utf8')))
      await new Promise(resolve => setImmediate(resolve))
    }
    await written
  }
  t.strictSame([...seen].sort(), [0, 1])
})

t.test('a write that fails leaves the old file and nothing else', async t => {
  const directory = t.testdir({ 'subnet.env': { 'is a directory': '' } })
  const path = join(directory, 'subnet.env')
  await t.rejects(writeFileAtomic(path, 'text', 0o644), { code: 'EISDIR' })
  t.strictSame(readdirSync(directory), ['subnet.env'])
})

t.test('a link in the place of the temporary file is not followed', async t => {
  const directory = t.testdir({ victim: 'untouched' })
  const path = join(directory, 'subnet.env')
  symlinkSync(join(directory, 'victim'), `${path}.${process.pid}.tmp`)

  await writeFileAtomic(path, 'text', 0o644)

  t.equal(readFileSync(join(directory, 'victim'), 'utf8'), 'untouched')
  t.equal(readFileSync(path, 'utf8'), 'text')
})

t.test(
  'the subnet of an earlier run is read, and nothing is made of what is unreadable',
  async t => {
    const directory = t.testdir({
      good: 'FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1472\n',
      bad: 'FLANNEL_SUBNET=10.5.72.1\n',
      directory: {},
    })
    const former = await readPreviousSubnetEnv(join(directory, 'good'), silent)
    t.equal(former && formatSubnet(former.subnet), '10.5.72.0/24')
    t.equal(await readPreviousSubnetEnv(join(directory, 'bad'), silent), undefined)
    t.equal(await readPreviousSubnetEnv(join(directory, 'none'), silent), undefined)
    const { log, messages } = collectLog()
    t.equal(await readPreviousSubnetEnv(join(directory, 'directory'), log), undefined)
    t.strictSame(messages, ['cannot read the former subnet file'])
  },
)

t.test(
  'a host id is made once, kept for its owner, and the same after its loss',
  async t => {
    const file = join(t.testdir(), 'state', 'host-id')
    const options = { given: '', file, mac: '52:54:00:12:34:56' }

    const { hostId: made, mayBeClone } = await obtainIdentity(options, silent)
    t.match(made, /^[0-9a-f]{16}$/)
    t.equal(mayBeClone, false)
    t.match(JSON.parse(readFileSync(file, 'utf8')), { version: 1, hostId: made })
    t.equal(statSync(file).mode & 0o777, 0o600)
    t.strictSame(
      await obtainIdentity({ ...options, mac: '52:54:00:00:00:01' }, silent),
      { hostId: made, mayBeClone: true },
      'kept, with the suspicion that this is a copy',
    )
    writeFileSync(file, 'an-operator.s-own\n')
    t.strictSame(await obtainIdentity(options, silent), {
      hostId: 'an-operator.s-own',
      mayBeClone: false,
    })
    writeFileSync(file, 'two words')
    const { log, messages } = collectLog()
    t.equal((await obtainIdentity(options, log)).hostId, made)
    t.strictSame(messages, [
      'the stored host id is unreadable; making another',
      'made a host id',
    ])
  },
)

t.test('a clone keeps its id when it is the only one, else it gets another', async t => {
  const file = join(t.testdir(), 'host-id')
  const original = { given: '', file, mac: '52:54:00:00:00:01' }
  const copy = { ...original, mac: '52:54:00:00:00:02' }
  const { hostId } = await obtainIdentity(original, silent)

  const identity = await obtainIdentity(copy, silent)
  t.strictSame(identity, { hostId, mayBeClone: true })
  await confirmIdentity(copy, identity)
  t.strictSame(await obtainIdentity(copy, silent), { hostId, mayBeClone: false })
  const renewed = await renewIdentity(copy, silent)
  t.not(renewed.hostId, hostId)
  t.strictSame(await obtainIdentity(copy, silent), renewed)
})

t.test('two machines get two host ids', async t => {
  const directory = t.testdir()
  const idOf = async (mac: string): Promise<string> =>
    (await obtainIdentity({ given: '', file: join(directory, mac), mac }, silent)).hostId
  t.not(await idOf('52:54:00:00:00:01'), await idOf('52:54:00:00:00:02'))
})

t.test('--node-id is taken as it is, or refused by name', async t => {
  const file = join(t.testdir(), 'host-id')
  t.equal(
    (await obtainIdentity({ given: 'rack-3.host_7', file, mac: undefined }, silent))
      .hostId,
    'rack-3.host_7',
  )
  for (const given of ['two words', 'a/b', 'x'.repeat(65), 'ä']) {
    await t.rejects(obtainIdentity({ given, file, mac: undefined }, silent), {
      name: 'UsageError',
      message: `--node-id ${JSON.stringify(given)} must be up to 64 letters, digits, dots, _ or -`,
    })
  }
})

const FLAGS = { 'state-dir': '/var/lib/flannel', 'run-dir': '/run/flannel' }

t.test('each etcd prefix has places of its own', async t => {
  t.match(placesOf({ ...FLAGS, 'etcd-prefix': '/coreos.com/network' }), {
    stateDir: '/var/lib/flannel/coreos.com_network',
    runDir: '/run/flannel/coreos.com_network',
    statusSocket: '/run/flannel/coreos.com_network/status.sock',
    hostIdFile: '/var/lib/flannel/coreos.com_network/host-id',
  })
  t.not(scopeName('/a/b'), scopeName('/a_b'))
  t.equal(networkDirectory([parsePrefix('10.5.0.0/16')]), '10.5.0.0-16')
  t.equal(
    networkDirectory([parsePrefix('10.5.0.0/16'), parsePrefix('fd00::/48')]),
    '10.5.0.0-16_fd00..-48',
  )
  const part = fc
    .string({
      minLength: 1,
      maxLength: 4,
      unit: fc.constantFrom('a', '_', '%', ' ', '.5F'),
    })
    .filter(text => !/^\.*$/.test(text))
  const path = fc.array(part, { minLength: 1, maxLength: 3 })
  await holds(
    t,
    fc.property(path, path, (a, b) => {
      const names = [a, b].map(parts => scopeName(`/${parts.join('/')}`))
      return (
        /^[^/\0]+$/.test(names[0] ?? '') &&
        (names[0] === names[1]) === (a.join('/') === b.join('/'))
      )
    }),
  )
})

t.test('a run directory that is too long for sockets is refused', t => {
  const places = placesOf({
    ...FLAGS,
    'run-dir': `/run/${'x'.repeat(100)}`,
    'etcd-prefix': '/a',
  })
  t.throws(
    () => {
      checkSocketName(places.statusSocket)
    },
    { name: 'StartError', message: /longer than the 107 bytes .* --run-dir/ },
  )
  t.end()
})

t.test('places are for root alone; one daemon has them at a time', async t => {
  const directory = t.testdir({ file: '' })
  const flags = {
    'state-dir': join(directory, 's'),
    'run-dir': '/tmp/fc-none',
    'etcd-prefix': '/a',
  }
  const places = { ...placesOf(flags), runDir: join(directory, 'r') }

  await makePlaces(places.stateDir, places.runDir)
  t.equal(statSync(places.stateDir).mode & 0o777, 0o700)
  const lock = lockPlaces(places)
  t.ok(lock)
  t.equal(lockPlaces(places), undefined)
  lock?.release()
  await t.rejects(makePlaces(join(directory, 'file', 'x')), {
    name: 'StartError',
    message: /^cannot make the directory .*file\/x: ENOTDIR.*--state-dir and --run-dir$/,
  })
})

t.test('what was opened is closed backwards, whatever fails, and only once', async t => {
  const closed: string[] = []
  const cleanup = new Cleanup()
  cleanup.push(() => void closed.push('first'))
  cleanup.push(() => Promise.reject(new Error('stuck')))
  cleanup.push(() => {
    throw new Error('broken')
  })
  cleanup.push(async () => {
    await Promise.resolve()
    closed.push('last')
  })

  await t.rejects(cleanup.run(), { message: 'broken' })
  t.strictSame(closed, ['last', 'first'])
  await t.resolves(cleanup.run())
  t.strictSame(closed, ['last', 'first'])
})
