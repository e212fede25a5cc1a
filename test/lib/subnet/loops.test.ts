import t from 'tap'
import { Backoff, systemClock } from '../../../lib/subnet/clock.js'
import { SubnetError, isSubnetError } from '../../../lib/subnet/errors.js'
import { type Loop, runAll, unlessAborted } from '../../../lib/subnet/loops.js'
import { ManualClock } from '../../fakes/manual-clock.js'

/** A loop that ends when told to, and takes its time to clean up. */
function patient(clock: ManualClock, ended: string[], name: string): Loop {
  return async signal => {
    await clock.sleep(1_000_000, signal)
    await clock.sleep(50)
    ended.push(name)
  }
}

t.test('runAll ends when every loop has ended after the abort', async t => {
  const clock = new ManualClock()
  const ended: string[] = []
  const stop = new AbortController()
  const running = runAll(stop.signal, [
    patient(clock, ended, 'a'),
    patient(clock, ended, 'b'),
    () => Promise.resolve(),
  ])
  await clock.advance(10)
  t.strictSame(ended, [])

  stop.abort()
  await clock.until(running)

  t.strictSame(ended, ['a', 'b'])
})

t.test(
  'a loop that fails stops the others; its error comes when they are done',
  async t => {
    const clock = new ManualClock()
    const ended: string[] = []
    const failure = new Error('broken')
    const running = runAll(new AbortController().signal, [
      patient(clock, ended, 'a'),
      async () => {
        await clock.sleep(10)
        throw failure
      },
    ])

    await t.rejects(clock.until(running), failure)

    t.strictSame(ended, ['a'])
  },
)

t.test('of several failures the first is told', async t => {
  const running = runAll(new AbortController().signal, [
    () => Promise.reject(new Error('first')),
    () => Promise.reject(new Error('second')),
  ])

  await t.rejects(running, { message: 'first' })
})

t.test('aborted before it begins, runAll still runs what must clean up', async t => {
  const clock = new ManualClock()
  const ended: string[] = []

  await clock.until(runAll(AbortSignal.abort(), [patient(clock, ended, 'a')]))

  t.strictSame(ended, ['a'])
})

t.test('a backoff doubles up to its end, each wait in its upper half', async t => {
  const clock = new ManualClock({ now: 0 })
  const backoff = new Backoff(clock, 100, 1000)
  const waits: number[] = []
  const wait = async (): Promise<void> => {
    const started = clock.now()
    await clock.until(backoff.wait())
    waits.push(clock.now() - started)
  }

  for (let round = 0; round < 6; round++) await wait()
  backoff.reset()
  await wait()

  for (const [index, most] of [100, 200, 400, 800, 1000, 1000, 100].entries()) {
    const waited = waits[index]!
    t.ok(waited >= most / 2 && waited <= most, `${waited} of ${most}`)
  }
})

t.test('a backoff ends at once when it is aborted', async t => {
  const clock = new ManualClock()
  const stop = new AbortController()
  const waiting = new Backoff(clock, 1000, 1000).wait(stop.signal)

  stop.abort()
  await waiting

  t.equal(clock.sleeping, 0)
})

t.test('the clock of the system sleeps, and stops sleeping on abort', async t => {
  const clock = systemClock(() => performance.now())
  const started = clock.now()
  await clock.sleep(20)
  t.ok(clock.now() - started >= 19)

  const stop = new AbortController()
  const sleep = clock.sleep(3_600_000, stop.signal)
  stop.abort()
  await sleep
  await clock.sleep(3_600_000, AbortSignal.abort())
  t.ok(clock.random() < 1)
})

t.test('an error is known by its code', t => {
  const error = new SubnetError('ERR_LEASE_LOST', 'gone')
  t.equal(isSubnetError(error, 'ERR_LEASE_LOST'), true)
  t.equal(isSubnetError(error, 'ERR_SUBNET_TAKEN'), false)
  t.equal(isSubnetError({ code: 'ERR_LEASE_LOST' }, 'ERR_LEASE_LOST'), false)
  t.equal(error.name, 'SubnetError')
  t.end()
})

t.test('an answer is waited for no longer than it is wanted', async t => {
  const { signal } = new AbortController()
  t.equal(await unlessAborted(Promise.resolve(7), signal), 7)
  t.equal(await unlessAborted(Promise.resolve(7), undefined), 7)
  await t.rejects(unlessAborted(Promise.reject(new Error('no')), signal), {
    message: 'no',
  })

  const stop = new AbortController()
  const never = new Promise<number>(() => undefined)
  const waiting = unlessAborted(never, stop.signal)
  stop.abort(new Error('over'))
  await t.rejects(waiting, { message: 'over' })
  await t.rejects(unlessAborted(never, stop.signal), { message: 'over' })
})
