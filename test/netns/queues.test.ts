/** A packet path of several processes, each with a queue of the device (--udp-queues). */
import t from 'tap'
import { type RunningPing, startPing } from '../../cmd/flannelctl/lab/ping.js'
import { DUAL, openPair, passes } from './open-pair.js'
import { isRunning } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const TWO = ['--udp-queues=2']

const pair = await openPair(t, 'queues', DUAL, { flags: TWO })
for (const family of [4, 6] as const) await passes(pair, family)

const pidsOf = async (side: 1 | 2): Promise<number[]> =>
  ((await pair.path(side)).queues ?? []).map(({ pid }) => pid)

/** Pings of one a millisecond, some of them in each queue. */
async function startTraffic(): Promise<RunningPing> {
  const from = pair.namespaceOf(1)
  // A machine that stands still for seconds is not what is tested.
  for (const side of [1, 2] as const)
    await pair.inside(side, 'ip', 'link', 'set', 'flannel0', 'txqueuelen', '10000')
  return startPing(from, [pair.addressOf(2, 4)], { count: 60_000, intervalMs: 1 })
}

t.test('streams are shared between the queues of both hosts', async t => {
  const counters = [
    [1, 'sentPackets'],
    [2, 'receivedPackets'],
  ] as const
  // The kernel shares out by hash: eight streams may all have the same queue once.
  await waitFor('each queue has its share', async () => {
    const rate = await pair.transfer(4, '--parallel=8')
    t.comment(`${rate.toFixed(0)} Mbit/s`)
    const shares = await Promise.all(
      counters.map(async ([side, counter]) => {
        const { queues = [] } = await pair.path(side)
        return queues.map(({ traffic }) => traffic[counter] ?? 0)
      }),
    )
    t.comment(JSON.stringify(shares))
    return shares.flat().every(share => share > 1000)
  })
  for (const [side] of counters) {
    const { queues = [] } = await pair.path(side)
    t.equal(new Set(queues.map(({ pid }) => pid)).size, 2)
  }
  t.strictSame([(await pair.path(1)).drops, (await pair.path(2)).drops], [{}, {}])
})

t.test(
  'a daemon that restarts takes over every queue, and no packet is lost',
  async t => {
    const before = await pidsOf(2)
    const traffic = await startTraffic()

    await pair.restart(2, 'SIGTERM', TWO)
    await pair.restart(2, 'SIGKILL', TWO)

    t.strictSame(await pidsOf(2), before)
    const [result] = await traffic.stop()
    t.equal(result?.received, result?.sent, `of ${result?.sent ?? 0} packets`)
  },
)

for (const queue of [0, 1]) {
  t.test(`the path of queue ${queue} is replaced when it is killed`, async t => {
    const before = await pidsOf(2)

    process.kill(before[queue] ?? 0, 'SIGKILL')

    await waitFor('another runs', async () => {
      const after = await pidsOf(2).catch(() => before)
      return after[queue] !== before[queue]
    })
    const after = await pidsOf(2)
    t.equal(after[1 - queue], before[1 - queue], 'the other goes on')
    for (const family of [4, 6] as const) await passes(pair, family)
    t.ok((await pair.transfer(4, '--parallel=4')) > 10)
  })
}

t.test('one that died without a daemon is started beside the other', async t => {
  const before = await pidsOf(2)
  await pair.restart(1, 'SIGTERM', TWO)
  const [, second = 0] = before

  process.kill(second, 'SIGSTOP')
  await pair.restart(2, 'SIGKILL', TWO)

  const after = await pidsOf(2)
  t.equal(after[0], before[0])
  t.not(after[1], second)
  for (const family of [4, 6] as const) await passes(pair, family)
  t.ok((await pair.transfer(4, '--parallel=4')) > 10)
})

t.test('a device that somebody deletes is made anew, with every queue', async t => {
  const before = await pidsOf(2)

  await pair.inside(2, 'ip', 'link', 'delete', 'flannel0')

  await waitFor('each path has a successor', async () => {
    const after = await pidsOf(2).catch(() => before)
    return after.every(pid => !before.includes(pid))
  })
  for (const family of [4, 6] as const) await passes(pair, family)
  t.ok((await pair.transfer(4, '--parallel=4')) > 10)
  const links = await pair.inside(2, 'ip', '-brief', 'link', 'show', 'type', 'tun')
  t.match(links.trim(), /^flannel0\s[^\n]*$/, 'and is the only one')
})

t.test('with another number of queues the device is made anew', async t => {
  const before = await pidsOf(2)

  await pair.restart(2, 'SIGTERM', [])

  await waitFor('the paths before have ended', () => !before.some(isRunning))
  const { queues, pid } = await pair.path(2)
  t.equal(queues, undefined)
  t.ok(isRunning(pid))
  await passes(pair, 4)
  await pair.restart(2, 'SIGTERM', TWO)
  t.equal((await pidsOf(2)).length, 2)
  await passes(pair, 4)
})
