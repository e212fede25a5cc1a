import { once } from 'node:events'
import t from 'tap'
import { Interrupted, interruption } from '../../../cmd/flannelctl/interruption.js'

t.test('the second signal of two ends nothing', async t => {
  // Who waits for a signal alone is not kept waiting.
  const busy = setInterval(() => undefined, 1000)
  t.teardown(() => {
    clearInterval(busy)
  })
  const signal = interruption()
  const [aborted, hungUp] = [once(signal, 'abort'), once(process, 'SIGHUP')]
  process.kill(process.pid, 'SIGINT')
  await aborted
  t.match(signal.reason, new Interrupted('SIGINT'))
  t.equal((signal.reason as Interrupted).exitCode, 130)

  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.kill(process.pid, name)
  await hungUp
  t.equal((signal.reason as Interrupted).exitCode, 130, 'it was the first')
})
