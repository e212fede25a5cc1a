import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { EtcdTrio } from '../helpers/etcd-trio.js'
import { Follower } from '../helpers/follower.js'
import { inOwnNetwork } from '../helpers/own-network.js'
import { waitFor } from '../helpers/wait-for.js'

/** A member notices after an election timeout of 1 to 2 s that it is alone; a read waits 1 s for it. */
const BOUND_MS = 4500

await inOwnNetwork(t, import.meta.url, async () => {
  const trio = await EtcdTrio.open()
  t.teardown(() => trio.close())

  async function connect(
    t: Test,
    endpoints: readonly string[],
  ): Promise<
    Pick<Follower, 'values' | 'failures'> & { readonly registry: EtcdRegistry }
  > {
    const registry = new EtcdRegistry({ endpoints })
    const follower = await Follower.open(registry, '/net/')
    t.teardown(async () => {
      await follower.stop()
      registry.close()
    })
    await waitFor('the watch', () => follower.standings || undefined)
    return { registry, values: follower.values, failures: follower.failures }
  }

  /** While members elect a leader none is written, or nobody can say whether it was. */
  function put(registry: EtcdRegistry, value: string): Promise<unknown> {
    const write = { kind: 'put', key: '/net/a', value } as const
    return waitFor(`${value} to be written`, () =>
      ask(() => registry.commit([], [write])),
    )
  }

  /** The endpoints, beginning with that of a member. */
  function endpointsFrom(index: number): string[] {
    const { endpoints } = trio
    return [...endpoints.slice(index), ...endpoints.slice(0, index)]
  }

  t.test('a follower that is cut off from the others is left', async t => {
    const follower = ((await trio.leader()) + 1) % 3
    const { registry, values } = await connect(t, endpointsFrom(follower))

    trio.cutOff(follower)
    const started = performance.now()
    await registry.get('/net/a')
    const firstMs = Math.round(performance.now() - started)
    await put(registry, 'meanwhile')
    await waitFor('the watch to move', () => values[0])
    const { endpoint } = registry
    trio.rejoin(follower)
    await trio.isHealthy()

    t.ok(firstMs < BOUND_MS, `${firstMs} ms`)
    t.strictSame([...new Set(values)], ['meanwhile'])
    t.not(endpoint, trio.endpoints[follower])
  })

  t.test(
    'a leader that is cut off from the others is left for its successor',
    async t => {
      const leader = await trio.leader()
      const { registry, values } = await connect(t, endpointsFrom(leader))
      await put(registry, 'before')
      await waitFor('the change', () => values[0])

      trio.cutOff(leader)
      await waitFor('a successor', () => ask(() => registry.get('/net/a')))
      await put(registry, 'after')
      await waitFor('the watch to move', () => values.includes('after') || undefined)
      // Once it is back it may be asked again.
      const { endpoint } = registry
      trio.rejoin(leader)
      await trio.isHealthy()

      t.strictSame([...new Set(values)], ['before', 'after'])
      t.not(endpoint, trio.endpoints[leader])
    },
  )

  t.test('a cluster without a quorum is said to be away, and comes back', async t => {
    const { registry, values, failures } = await connect(t, endpointsFrom(0).slice(0, 1))

    await Promise.all([trio.kill(1), trio.kill(2)])
    const why = await waitFor('a failure that says why', () =>
      registry.get('/net/a').then(
        () => undefined,
        (error: unknown) => /.*no leader.*/.exec(String(error))?.[0],
      ),
    )
    await waitFor('the watch to end', () => failures[0])
    await trio.start(1)
    await put(registry, 'again')
    await waitFor('the watch', () => values[0])

    t.match(why, 'is not available: it is cut off from the other members (no leader)')
    t.strictSame([...new Set(values)], ['again'])
  })
})

/** True when it succeeds. */
async function ask(call: () => Promise<unknown>): Promise<true | undefined> {
  return await call().then(
    () => true,
    () => undefined,
  )
}
