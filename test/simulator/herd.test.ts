/** Hosts that all start at once, as when the power comes back. */
import t from 'tap'
import { startHerd } from './herd.js'

t.setTimeout(600_000)

// A list is 110 KB here, and all lists are 9 seconds of the link.
const OPTIONS = {
  ...{ hosts: 500, bytesPerSecond: 6_250_000, requestMs: 0.1, roundTripMs: 1 },
  spreadMs: 0,
}

t.test('all are ready as soon as etcd can have told them', async t => {
  const result = await startHerd({ ...OPTIONS, isPaged: true, isFirstTime: false })

  t.equal(result.readyAfter.length, OPTIONS.hosts)
  t.equal(result.timeouts, 0, 'nothing is asked for in vain')
  const lists = result.sentBytes / (OPTIONS.hosts * result.listBytes)
  t.ok(lists < 1.3, `each has had one list (${lists.toFixed(2)})`)
  const last = result.readyAfter.at(-1) ?? Infinity
  t.ok(last < 60, `within a minute (${last.toFixed(0)} s)`)
})

t.test('hosts that never were there take a subnet each', async t => {
  const options = { ...OPTIONS, hosts: 200, isFirstTime: true }
  const result = await startHerd({ ...options, isPaged: true })

  t.equal(result.readyAfter.length, 200)
  t.equal(result.subnets, 200)
  t.equal(result.timeouts, 0)
})
