import t, { type Test } from 'tap'
import { DaemonState } from '../../../cmd/flanneld/state.js'
import { keepSystemdInformed } from '../../../cmd/flanneld/systemd-notify.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import { silent } from '../../helpers/log.js'
import { NotifySocket } from '../../helpers/notify-socket.js'

function open(t: Test, environment: Record<string, string>, oneLine: () => string) {
  const socket = new NotifySocket(t)
  Object.assign(process.env, { NOTIFY_SOCKET: socket.path, ...environment })
  const clock = new ManualClock()
  const stop = new AbortController()
  const done = keepSystemdInformed({ clock, log: silent }, oneLine, stop.signal)
  t.teardown(async () => {
    stop.abort()
    await done
    for (const name of ['NOTIFY_SOCKET', ...Object.keys(environment)])
      Reflect.deleteProperty(process.env, name)
  })
  return { socket, clock }
}

t.test('how it goes is told when it changes', async t => {
  let line = 'starting'
  const { socket, clock } = open(t, {}, () => line)
  t.strictSame(socket.read(), ['STATUS=starting'])
  await clock.advance(60_000)
  t.strictSame(socket.read(), [])
  line = '10.5.1.0/24 by flannel0, 3 remotes'
  await clock.advance(2000)
  t.strictSame(socket.read(), ['STATUS=10.5.1.0/24 by flannel0, 3 remotes'])
})

t.test('the watchdog hears twice in its time that we live', async t => {
  const { socket, clock } = open(t, { WATCHDOG_USEC: '3000000' }, () => 'fine')
  t.strictSame(socket.read(), ['STATUS=fine\nWATCHDOG=1'])
  for (let round = 0; round < 5; round += 1) {
    await clock.advance(3000)
    t.strictSame(socket.read(), ['WATCHDOG=1', 'WATCHDOG=1'])
  }
})

t.test('a systemd that reads nothing holds up nobody', async t => {
  const { socket, clock } = open(t, { WATCHDOG_USEC: '3000000' }, () => 'fine')
  await clock.advance(3_000_000)
  t.ok(socket.read().length < 100)
})

t.test('a watchdog that means another process is none of ours', async t => {
  const other = { WATCHDOG_USEC: '3000000', WATCHDOG_PID: String(process.pid + 1) }
  const { socket, clock } = open(t, other, () => 'fine')
  await clock.advance(10_000)
  t.strictSame(socket.read(), ['STATUS=fine'])
})

t.test('outside of a unit nothing waits', async t => {
  const clock = new ManualClock()
  const { signal } = new AbortController()
  await keepSystemdInformed({ clock, log: silent }, () => 'fine', signal)
  t.equal(clock.sleeping, 0)
})

t.test('one line tells the worst', t => {
  const state = new DaemonState()
  t.equal(state.oneLine(), 'starting')
  state.wait('etcd at http://192.0.2.1:2379 does not answer')
  t.equal(state.oneLine(), 'waiting: etcd at http://192.0.2.1:2379 does not answer')
  state.phase = 'ready'
  state.etcdReachable = true
  state.headline = () => '10.5.1.0/24 by flannel.1, 3 remotes (2 answer)'
  t.equal(state.oneLine(), '10.5.1.0/24 by flannel.1, 3 remotes (2 answer)')
  state.note('peers', '1 of 3 remotes do not answer')
  t.match(state.oneLine(), /\(2 answer\); peers: 1 of 3 remotes do not answer$/)
  state.report('backend', 'no device')
  t.match(state.oneLine(), /; backend: no device$/)
  t.end()
})
