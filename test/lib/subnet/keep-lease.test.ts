import t, { type Test } from 'tap'
import type { HeldLease } from '../../../lib/subnet/acquire-lease.js'
import type { LeaseKeeper } from '../../../lib/subnet/keep-lease.js'
import {
  type LeaseHost,
  LeaseWorld,
  TTL_SECONDS,
  subnetOf,
} from '../../helpers/lease-host.js'
import { collectLog } from '../../helpers/log.js'

const NAME = '10.5.7.0-24'
const OURS = '{"PublicIP":"1.1.1.1","PublicIPv6":null,"HostID":"host-a"}'
const MINUTE = 60_000
const DAY = TTL_SECONDS * 1000

interface Kept {
  readonly world: LeaseWorld
  readonly host: LeaseHost
  readonly held: HeldLease
  readonly keeper: LeaseKeeper
  /** Why the keeper ended, when it did. */
  readonly ended: { error?: unknown; done: boolean }
  readonly running: Promise<void>
  readonly messages: string[]
}

/** A host that holds 10.5.7.0/24 and keeps it. */
async function keep(t: Test, prepare?: (world: LeaseWorld) => void): Promise<Kept> {
  const world = new LeaseWorld()
  prepare?.(world)
  const { log, messages } = collectLog()
  const host = world.host('host-a', '1.1.1.1', log)
  const held = await host.acquire({ previous: subnetOf('10.5.7.0/24') })
  messages.length = 0
  const keeper = host.keeper(held)
  const stop = new AbortController()
  const ended: Kept['ended'] = { done: false }
  const running = keeper.run(stop.signal).then(
    () => {
      ended.done = true
    },
    (error: unknown) => {
      ended.error = error
    },
  )
  t.teardown(() => {
    stop.abort()
    return running
  })
  return { world, host, held, keeper, ended, running, messages }
}

t.test('a lease lives as long as it is kept, and nobody hears of it', async t => {
  const { world, host, held, keeper } = await keep(t)
  const { revision } = world.etcd

  await world.clock.advance(5 * DAY)

  t.equal(world.etcd.get(held.key)?.leaseId, held.leaseId)
  t.equal(world.etcd.revision, revision)
  t.equal(keeper.provenUntil - world.clock.now(), DAY)
  t.equal(
    host.registry.calls.filter(call => call === 'keepLeaseAlive').length,
    (5 * 24 * 60) / 5,
    'every five minutes',
  )
})

t.test('a key that was deleted comes back, on the same lease', async t => {
  const { world, held, keeper, messages } = await keep(t)

  world.remove(NAME)
  keeper.checkNow()
  await world.clock.settle()

  t.match(world.etcd.get(held.key), { value: OURS, leaseId: held.leaseId })
  t.strictSame(messages, ['our lease was gone; putting it back'])
})

t.test('without a word from the watch it comes back at the next renewal', async t => {
  const { world } = await keep(t)

  world.remove(NAME)
  await world.clock.advance(5 * MINUTE)

  t.equal(world.value(NAME), OURS)
})

t.test('a lease that is gone is granted anew, and the subnet stays', async t => {
  const { world, held, keeper } = await keep(t)

  world.etcd.revoke(held.leaseId!)
  t.equal(world.value(NAME), undefined)
  keeper.checkNow()
  await world.clock.settle()

  const entry = world.etcd.get(held.key)
  t.equal(entry?.value, OURS)
  t.ok(entry?.leaseId !== undefined && entry.leaseId !== held.leaseId)
  t.equal(keeper.held.leaseId, entry?.leaseId)
  await world.clock.advance(3 * DAY)
  t.equal(world.value(NAME), OURS)
})

t.test(
  'a wiped registry gets our record back when it has a configuration again',
  async t => {
    const { world, held, keeper, messages } = await keep(t)

    world.etcd.wipe()
    await world.clock.advance(10 * MINUTE)
    t.equal(world.etcd.get(held.key), undefined)
    t.match(keeper.trouble, /^\/net\/config is gone: etcd was wiped/)
    t.strictSame(messages, ['cannot renew the lease; trying again'])

    world.putConfig()
    await world.clock.advance(MINUTE)

    t.equal(world.etcd.get(held.key)?.value, OURS)
    t.equal(keeper.held.createRevision, world.etcd.get(held.key)?.createRevision)
    t.equal(keeper.trouble, undefined)
  },
)

t.test('when another host has our subnet the keeper ends and says who', async t => {
  const others: readonly [what: string, value: string, pinned: boolean][] = [
    ['another host of ours', '{"PublicIP":"2.2.2.2","HostID":"host-b"}', false],
    ['a stock flannel', '{"PublicIP":"2.2.2.2","PublicIPv6":null}', false],
    ['a reservation for another', '{"PublicIP":"2.2.2.2"}', true],
  ]
  for (const [what, value, pinned] of others) {
    const { world, keeper, ended, running } = await keep(t)

    world.put(NAME, value, pinned ? undefined : world.etcd.grant(60))
    keeper.checkNow()
    await running

    t.match(
      ended.error,
      {
        code: 'ERR_LEASE_LOST',
        message: 'our subnet 10.5.7.0/24 is held by 2.2.2.2 now',
      },
      what,
    )
    t.equal(world.value(NAME), value, 'and leaves the record alone')
  }
})

t.test('a reservation given to another host is lost too', async t => {
  const { world, keeper, ended, running } = await keep(t, world => {
    world.put(NAME, '{"PublicIP":"1.1.1.1"}')
  })

  world.put(NAME, '{"PublicIP":"2.2.2.2"}')
  keeper.checkNow()
  await running

  t.match(ended.error, { code: 'ERR_LEASE_LOST' })
})

t.test('a reservation stays one, and never expires', async t => {
  const { world, held, keeper } = await keep(t, world => {
    world.put(NAME, '{"PublicIP":"1.1.1.1"}')
  })

  await world.clock.advance(3 * DAY)

  t.match(world.etcd.get(held.key), { value: OURS, leaseId: undefined })
  t.equal(keeper.provenUntil, Number.POSITIVE_INFINITY)
})

t.test(
  'an operator makes our lease a reservation by putting the key without a lease',
  async t => {
    const { world, held, keeper } = await keep(t)

    world.etcd.commit([], [{ kind: 'delete', key: held.key }])
    world.put(NAME, '{"PublicIP":"1.1.1.1"}')
    keeper.checkNow()
    await world.clock.settle()
    const reservation = world.etcd.get(held.key)
    t.match(reservation, { value: OURS, leaseId: undefined })
    t.equal(
      keeper.held.createRevision,
      reservation?.createRevision,
      'and is known as such',
    )

    await world.clock.advance(3 * DAY)
    t.match(world.etcd.get(held.key), { value: OURS, leaseId: undefined })
    t.equal(keeper.provenUntil, Number.POSITIVE_INFINITY)
  },
)

t.test('a record of ours that somebody spoiled is put right', async t => {
  for (const revoked of [false, true]) {
    const { world, held, keeper } = await keep(t)
    const lease = revoked ? world.etcd.grant(TTL_SECONDS) : held.leaseId
    world.put(NAME, '{', lease)
    if (revoked) world.etcd.revoke(held.leaseId!)

    keeper.checkNow()
    await world.clock.settle()

    const entry = world.etcd.get(held.key)
    t.equal(entry?.value, OURS)
    t.ok(entry?.leaseId)
    t.equal(keeper.held.leaseId, entry?.leaseId)
  }
})

t.test(
  'one that was made and spoiled after our hold had ended may be of another host',
  async t => {
    const { world, host, held, ended, running } = await keep(t)
    host.registry.partition()
    await world.clock.advance(2 * DAY)
    t.equal(world.etcd.get(held.key), undefined, 'it has expired')
    const lease = world.etcd.grant(TTL_SECONDS)
    world.put(NAME, '{"PublicIP":"9.9.9.9","HostID":"host-b"}', lease)
    world.put(NAME, '{', lease)

    host.registry.heal()
    await world.clock.advance(120_000)
    await running

    t.match(ended.error, { code: 'ERR_LEASE_LOST' })
    t.equal(world.value(NAME), '{', 'and stays as it is')
  },
)

t.test('another machine that goes by our id has taken our subnet', async t => {
  const { world, held, keeper, ended, running } = await keep(t)

  world.put(NAME, '{"PublicIP":"9.9.9.9","HostID":"host-a"}', held.leaseId)
  keeper.checkNow()
  await running

  t.match(ended.error, {
    code: 'ERR_HOST_CLONED',
    message: /held by 9\.9\.9\.9 now, which goes by our host id host-a$/,
  })
})

t.test('etcd away for days degrades; back again, the lease goes on', async t => {
  const { world, held, keeper, ended, messages } = await keep(t)

  world.etcd.stop()
  await world.clock.advance(3 * DAY)
  t.strictSame(ended, { done: false })
  t.ok(keeper.provenUntil < world.clock.now(), 'the hold is not proven any more')
  t.strictSame(messages, ['cannot renew the lease; trying again'], 'it is said once')

  world.etcd.start()
  await world.clock.advance(MINUTE)

  t.equal(world.etcd.get(held.key)?.leaseId, held.leaseId)
  t.ok(keeper.provenUntil > world.clock.now())
  t.strictSame(messages.slice(1), ['lease renewed again'])
})

t.test('cut off until the lease ended, the host takes its subnet again', async t => {
  const { world, host, held, keeper } = await keep(t)

  host.registry.partition()
  await world.clock.advance(2 * DAY)
  t.equal(world.value(NAME), undefined)
  host.registry.heal()
  await world.clock.advance(MINUTE)

  t.equal(world.value(NAME), OURS)
  t.not(keeper.held.leaseId, held.leaseId)
})

t.test(
  'cut off until another took the subnet, the host hears so at once when back',
  async t => {
    const { world, host, ended } = await keep(t)
    host.registry.partition()
    await world.clock.advance(2 * DAY)
    const rival = world.host('host-b', '2.2.2.2')
    t.equal(
      await rival.acquireSubnet({ previous: subnetOf('10.5.7.0/24') }),
      '10.5.7.0/24',
    )
    t.strictSame(ended, { done: false })

    host.registry.heal()
    await world.clock.advance(MINUTE)

    t.match(ended.error, { code: 'ERR_LEASE_LOST', message: /held by 2\.2\.2\.2 now$/ })
  },
)

t.test(
  'whatever answer is lost, the record ends up on the lease that is kept',
  async t => {
    for (const call of ['keepLeaseAlive', 'get', 'grantLease', 'commit'] as const) {
      for (const failure of ['not sent', 'answer lost', 'refused'] as const) {
        const { world, host, held, keeper, ended } = await keep(t)
        world.etcd.revoke(held.leaseId!)
        host.registry.failNext(call, failure)

        keeper.checkNow()
        await world.clock.advance(MINUTE)

        t.strictSame(ended, { done: false }, `${call} ${failure}`)
        t.match(world.etcd.get(held.key), { value: OURS, leaseId: keeper.held.leaseId })
        await world.clock.advance(2 * DAY)
        t.equal(world.value(NAME), OURS)
      }
    }
  },
)

t.test('a keeper that is told to stop stops, and leaves the record', async t => {
  const { world, keeper, host, held } = await keep(t)
  const stop = new AbortController()
  const running = host.keeper(held).run(stop.signal)
  await world.clock.advance(MINUTE)

  stop.abort()
  await world.clock.until(running)

  t.equal(world.value(NAME), OURS)
  t.equal(keeper.held.key, held.key)
})

const BOTH = { Network: '10.5.0.0/16', EnableIPv6: true, IPv6Network: 'fc00::/48' }
const DUAL_NAME = '10.5.7.0-24&fc00:0:0:7::-64'

/** A host that keeps a subnet of both families. */
async function keepBoth(
  t: Test,
): Promise<
  Pick<Kept, 'world' | 'keeper' | 'held'> & { readonly ended: Promise<unknown> }
> {
  const world = new LeaseWorld(BOTH)
  const host = world.host('host-a', '1.1.1.1')
  const previous = subnetOf('10.5.7.0/24', 'fc00:0:0:7::/64')
  const held = await host.acquire({ previous })
  const keeper = host.keeper(held)
  const stop = new AbortController()
  const ended = keeper.run(stop.signal).catch((error: unknown) => error)
  t.teardown(() => {
    stop.abort()
    return ended
  })
  return { world, keeper, held, ended }
}

t.test('dual stack: a record deleted without its claims comes back', async t => {
  const { world, keeper } = await keepBoth(t)

  world.remove(DUAL_NAME)
  keeper.checkNow()
  await world.clock.settle()

  t.ok(world.value(DUAL_NAME))
})

t.test('dual stack: the host hears that another has half of its subnet', async t => {
  const { world, keeper, held, ended } = await keepBoth(t)

  world.etcd.revoke(held.leaseId ?? '')
  const key = '/net/claims/v4/10.5.7.0-24'
  world.etcd.commit([], [{ kind: 'put', key, value: 'host-b' }])
  keeper.checkNow()

  t.match(await ended, {
    code: 'ERR_LEASE_LOST',
    message: /our subnet 10\.5\.7\.0\/24 and .* is held by host-b now/,
  })
  t.equal(world.value(DUAL_NAME), undefined)
})
