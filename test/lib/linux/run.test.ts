import t from 'tap'
import { CommandError, run } from '../../../lib/linux/run.js'

async function failureOf(promise: Promise<unknown>): Promise<CommandError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (error instanceof CommandError) return error
  throw new Error('the command did not fail as it should', { cause: error })
}

t.test(
  'a command gets its input and gives its output, not touched by a shell',
  async t => {
    t.equal(await run('cat', [], { input: 'größer\n' }), 'größer\n')
    t.equal(await run('printf', ['%s', '$HOME; `id` *']), '$HOME; `id` *')
    const large = 'x'.repeat(1 << 20)
    t.equal(await run('cat', [], { input: large }), large)
  },
)

t.test('a command sees nothing of our environment', async t => {
  process.env['ETCD_PASSWORD'] = 'secret'
  t.teardown(() => delete process.env['ETCD_PASSWORD'])

  const lines = (await run('env', [])).split('\n')

  t.ok(lines.includes('LC_ALL=C'))
  const foreign = /^(ETCD_PASSWORD|HOME|USER|SHELL|LANG|NODE_PATH|NOTIFY_SOCKET)=/
  t.strictSame(
    lines.filter(line => foreign.test(line)),
    [],
  )
})

t.test('a command that fails says why, in its own words', async t => {
  const error = await failureOf(
    run('sh', ['-c', 'echo partly; echo no such thing >&2; exit 3']),
  )

  t.match(error.message, /^sh -c .* failed with exit code 3: no such thing$/)
  t.equal(error.exitCode, 3)
  t.equal(error.stdout, 'partly\n')
  t.equal(error.stderr, 'no such thing\n')
})

t.test('a command that fails without a word, or is killed, is told as well', async t => {
  t.equal(
    (await failureOf(run('false', []))).message,
    'false failed with exit code 1: no message',
  )
  const killed = await failureOf(run('sh', ['-c', 'kill -9 $$']))
  t.match(killed.message, /was ended by SIGKILL: no message$/)
  t.equal(killed.exitCode, null)
})

t.test('a program that is not installed is named, with the code ENOENT', async t => {
  const error = await failureOf(run('flanneld-has-no-such-program', ['-x']))
  t.equal(error.code, 'ENOENT')
  t.match(error.message, /^cannot run flanneld-has-no-such-program -x: .*ENOENT/)
})

t.test('a command that takes too long is killed', async t => {
  const error = await failureOf(run('sleep', ['600'], { timeoutMs: 100 }))
  t.equal(error.message, 'sleep 600 gave no answer in 100 ms')
})

t.test(
  'a child of the command that keeps the pipes open does not hold us up',
  async t => {
    const error = await failureOf(
      run('sh', ['-c', 'sleep 20 & sleep 600'], { timeoutMs: 100 }),
    )
    t.match(error.message, /gave no answer in 100 ms$/)
  },
)

t.test('a command that prints without end is killed', async t => {
  const error = await failureOf(run('yes', [], { maxOutput: 100_000 }))
  t.equal(error.message, 'yes printed more than 100000 bytes')
  const complaint = await failureOf(run('sh', ['-c', 'yes >&2'], { maxOutput: 100_000 }))
  t.match(complaint.message, /printed more than 100000 bytes$/)
})

t.test('a long complaint does not flood the log', async t => {
  const error = await failureOf(
    run('sh', ['-c', 'head -c 100000 /dev/zero | tr "\\0" x >&2; false']),
  )
  t.ok(error.message.length < 2200)
})

t.test(
  'a command that ends without reading its input is judged by its exit code',
  async t => {
    t.equal(await run('true', [], { input: 'x'.repeat(1 << 20) }), '')
  },
)
