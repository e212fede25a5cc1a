import t from 'tap'
import { HostClock, ManualClock } from './manual-clock.js'

t.test('sleepers wake in the order of their time, and see that time', async t => {
  const clock = new ManualClock({ now: 0 })
  const woken: [string, number][] = []
  const sleeper = async (name: string, ...delays: number[]): Promise<void> => {
    for (const ms of delays) {
      await clock.sleep(ms)
      woken.push([name, clock.now()])
    }
  }

  const done = Promise.all([sleeper('a', 30, 30), sleeper('b', 20, 20), sleeper('c', 40)])
  await clock.advance(45)
  t.strictSame(woken, [
    ['b', 20],
    ['a', 30],
    ['c', 40],
    ['b', 40],
  ])
  t.equal(clock.now(), 45)

  await clock.until(done)
  t.equal(clock.now(), 60)
  t.equal(clock.sleeping, 0)
})

t.test('an aborted sleep ends at once', async t => {
  const clock = new ManualClock()
  const stop = new AbortController()
  const sleep = clock.sleep(1000, stop.signal)

  stop.abort()
  await sleep

  t.equal(clock.sleeping, 0)
  await clock.sleep(1000, AbortSignal.abort())
})

t.test('waiting for what never comes is an error', async t => {
  const clock = new ManualClock()
  const never = new Promise<void>(() => undefined)

  await t.rejects(clock.until(never), {
    message: 'nobody sleeps, so time changes nothing',
  })
  void clock.sleep(5000)
  await t.rejects(clock.until(never, 1000), {
    message: 'nothing happened within 1000 ms',
  })
})

t.test('a suspended host wakes late, others do not', async t => {
  const clock = new ManualClock({ now: 0 })
  const [host, other] = [new HostClock(clock), new HostClock(clock)]
  const woken: [string, number][] = []
  const wake = (name: string) => (): void => {
    woken.push([name, clock.now()])
  }
  void host.sleep(10).then(wake('host'))
  void other.sleep(20).then(wake('other'))

  host.suspend()
  await clock.advance(50)
  host.resume()
  await clock.settle()

  t.strictSame(woken, [
    ['other', 20],
    ['host', 50],
  ])
})

t.test('the same seed gives the same chances', t => {
  const draw = (seed: number): number[] => {
    const clock = new ManualClock({ seed })
    return Array.from({ length: 100 }, () => clock.random())
  }

  t.strictSame(draw(7), draw(7))
  t.notSame(draw(7), draw(8))
  t.ok(draw(7).every(value => value >= 0 && value < 1))
  t.end()
})
