import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { formatLine } from '../../../cmd/flanneld/logger.js'
import { DaemonState } from '../../../cmd/flanneld/state.js'
import {
  openHealthServer,
  openStatusServer,
} from '../../../cmd/flanneld/status-server.js'
import { silent } from '../../helpers/log.js'
import { freePort } from '../../helpers/real-etcd.js'

/** The status code and the body that a server answers with. */
async function ask(
  where: object,
  path: string,
  method = 'GET',
): Promise<[number, string]> {
  const call = request({ ...where, path, method })
  call.end()
  const [response] = (await once(call, 'response')) as [IncomingMessage]
  return [response.statusCode ?? 0, await text(response)]
}

async function openHealth(t: Test, state: DaemonState) {
  const address = { host: '127.0.0.1', port: await freePort() }
  const server = await openHealthServer(address, state, silent)
  t.teardown(() => server.close())
  return address
}

t.test(
  'healthz says that we run, readyz whether packets can flow and why not',
  async t => {
    const state = new DaemonState()
    const where = await openHealth(t, state)

    t.strictSame(await ask(where, '/healthz'), [200, 'flanneld is running'])
    t.strictSame(await ask(where, '/readyz'), [
      503,
      'flanneld is not ready yet: starting',
    ])
    state.wait('etcd has no key /x/config')
    t.strictSame(await ask(where, '/readyz?verbose'), [
      503,
      'flanneld is not ready yet: etcd has no key /x/config',
    ])
    state.phase = 'ready'
    state.etcdReachable = true
    t.strictSame(await ask(where, '/readyz'), [200, 'flanneld is ready'])
    state.etcdReachable = false
    state.note('lease', 'ends soon')
    t.strictSame(await ask(where, '/readyz'), [
      200,
      'flanneld is ready\nnote: etcd does not answer; going on with the last known leases\nnote: lease: ends soon',
    ])
    state.note('lease', undefined)
    state.etcdReachable = true
    state.report('firewall', 'iptables is gone')
    t.strictSame(await ask(where, '/readyz'), [
      503,
      'flanneld is not ready yet: firewall: iptables is gone',
    ])
    state.report('firewall', undefined)
    t.equal((await ask(where, '/readyz', 'HEAD'))[0], 200)
  },
)

t.test('no request ends the daemon', async t => {
  const where = await openHealth(t, new DaemonState())
  for (const path of [
    '//',
    '//a:b',
    '/\\',
    '/%',
    '*',
    'http://[',
    '/status',
    '/?',
    '///healthz',
  ]) {
    t.equal((await ask(where, path))[0], 404, path)
  }
  t.equal((await ask(where, '/healthz', 'POST'))[0], 405)
  t.equal((await ask(where, '/healthz'))[0], 200)
})

t.test('a health port that is in use is told with the flag', async t => {
  const where = await openHealth(t, new DaemonState())
  await t.rejects(openHealthServer(where, new DaemonState(), silent), {
    name: 'StartError',
    message: /^--healthz-port: listen EADDRINUSE.*:\d+; choose another --healthz-port/,
  })
})

t.test(
  'the status socket is for its owner, and takes the place of a stale one',
  async t => {
    const directory = mkdtempSync(join(tmpdir(), 'fc-'))
    t.teardown(() => {
      rmSync(directory, { recursive: true })
    })
    const socketPath = join(directory, 'status.sock')
    const stale = createServer().listen(socketPath)
    await once(stale, 'listening')
    t.teardown(() => stale.close())
    const state = new DaemonState()
    state.publish('lease', () => ({ subnet: '10.5.72.0/24' }))
    state.publish('backend', () => {
      throw new Error('the packet path is gone')
    })

    const asked: string[] = []
    const actions = new Map([['release-lease', () => asked.push('release')]])
    const questions = new Map([
      ['lease-times', () => Promise.resolve({ '10.5.1.0/24': 7 })],
    ])
    const server = await openStatusServer(
      socketPath,
      () => state.toJson(),
      actions,
      questions,
    )

    t.equal(statSync(socketPath).mode & 0o777, 0o600)
    const [code, body] = await ask({ socketPath }, '/status')
    t.equal(code, 200)
    t.match(JSON.parse(body), {
      pid: process.pid,
      phase: 'starting',
      lease: { subnet: '10.5.72.0/24' },
      backend: { error: 'Error: the packet path is gone' },
    })
    t.same(await ask({ socketPath }, '/lease-times'), [200, '{"10.5.1.0/24":7}'])
    t.equal((await ask({ socketPath }, '/'))[0], 404)
    t.equal((await ask({ socketPath }, '/status', 'PUT'))[0], 404)
    t.equal((await ask({ socketPath }, '/release-lease', 'POST'))[0], 202)
    t.equal((await ask({ socketPath }, '/unknown', 'POST'))[0], 409)
    t.strictSame(asked, ['release'])
    await server.close()
    await t.rejects(ask({ socketPath }, '/status'))
  },
)

function line(fields: object): string {
  return formatLine(
    JSON.stringify({ level: 'info', time: '2026-11-24T10:33:21.123Z', ...fields }),
    'other',
  )
}

t.test('a log line has the time, the level, the message and the fields', t => {
  t.equal(
    line({ msg: 'lease acquired', subnet: '10.5.72.0/24', count: 3, list: ['a'] }),
    '10:33:21 INFO  lease acquired  subnet=10.5.72.0/24  count=3  list=["a"]\n',
  )
  t.equal(
    line({ msg: 'x', reason: 'two words', empty: '', quote: 'a"b' }),
    '10:33:21 INFO  x  reason="two words"  empty=""  quote="a\\"b"\n',
  )
  t.end()
})

t.test('whatever it says, a message is one line and moves no cursor', t => {
  t.equal(
    line({ msg: 'failed:\nline 2\x1b[2J', key: '\x1b]0;title\x07', c1: '\x9b31m\u202e' }),
    '10:33:21 INFO  failed:\\nline 2\\u001b[2J  key=\\u001b]0;title\\u0007  c1=\\u009b31m\\u202e\n',
  )
  t.end()
})

t.test('warnings and errors are coloured on a terminal alone', t => {
  const text = JSON.stringify({ level: 'error', time: '', msg: 'x' })
  t.equal(formatLine(text, 'terminal'), ' \x1b[31mERROR\x1b[0m x\n')
  t.equal(formatLine(text, 'other'), ' ERROR x\n')
  t.end()
})

t.test('the journal has the time, and is told how bad it is', t => {
  for (const [level, priority] of Object.entries({
    debug: 7,
    info: 6,
    warn: 4,
    error: 3,
    fatal: 2,
  })) {
    const text = JSON.stringify({
      level,
      time: '2026-11-24T10:33:21.123Z',
      msg: 'x',
      a: 1,
    })
    t.equal(formatLine(text, 'journal'), `<${priority}>x  a=1\n`)
  }
  t.end()
})

t.test('a unit whose output goes elsewhere writes for people', async t => {
  const program = fileURLToPath(new URL('../../../cmd/flanneld.js', import.meta.url))
  /** What a daemon that cannot start says, with what a unit has in its environment. */
  const said = async (stream: string, format: string): Promise<string> => {
    const script = `exec 2>&1; JOURNAL_STREAM=${stream} exec "$@"`
    const flags = [
      '--state-dir=/dev/null/x',
      '--run-dir=/dev/null/x',
      `--log-format=${format}`,
    ]
    const words = ['-c', script, 'sh', process.execPath, program, ...flags]
    const child = spawn('sh', words, { stdio: ['ignore', 'pipe', 'inherit'] })
    return await text(child.stdout)
  }
  const ours = '$(stat -Lc %d:%i /dev/stderr)'
  t.match(await said(ours, 'text'), /^<2>\S/)
  t.match(await said(ours, 'json'), /^<2>\{"level":"fatal"/)
  t.match(await said('1:2', 'text'), /^\d\d:\d\d:\d\d FATAL /)
  t.match(await said('1:2', 'json'), /^\{"level":"fatal"/)
})
