/** A host over several tenures: orders, releases and what they leave behind. */
import t, { type Test } from 'tap'
import { HostLease, type Tenure } from '../../../lib/subnet/host-lease.js'
import {
  type Order,
  formatOrder,
  orderKey,
  parseOrder,
} from '../../../lib/subnet/orders.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
import { formatSubnet } from '../../../lib/subnet/subnet-key.js'
import {
  type LeaseHost,
  LeaseWorld,
  PREFIX,
  TTL_SECONDS,
  subnetOf,
} from '../../helpers/lease-host.js'
import { silent } from '../../helpers/log.js'

const KEY = orderKey(PREFIX, 'host-a')

class Life {
  readonly world: LeaseWorld
  readonly host: LeaseHost
  readonly lease: HostLease
  /** Subnets in the order in which they were served; the last is served now if `serving`. */
  readonly served: string[] = []
  serving = false
  waitsFor: string | undefined
  permitUntil = 0
  /** How often it was told that nothing is its. */
  abandoned = 0
  ended = false
  readonly stop = new AbortController()
  readonly running: Promise<void>

  constructor(t: Test, world: LeaseWorld) {
    this.world = world
    this.host = world.host('host-a', '1.1.1.1')
    this.lease = new HostLease({
      registry: this.host.registry,
      prefix: PREFIX,
      config: world.config,
      holder: this.host.holder,
      localAddresses: [parseAddress('1.1.1.1')],
      mayBeClone: false,
      isUnsettled: false,
      isRegistryAway: false,
      ttlSeconds: TTL_SECONDS,
      clock: world.clock,
      log: silent,
      onWait: reason => {
        this.waitsFor = reason
      },
    })
    const serve = async (tenure: Tenure, signal: AbortSignal): Promise<void> => {
      this.served.push(formatSubnet(tenure.keeper.held.subnet))
      this.serving = true
      await new Promise(resolve => {
        signal.addEventListener('abort', resolve)
      })
      this.serving = false
    }
    const permit = (until: number): Promise<void> => {
      this.permitUntil = until
      return Promise.resolve()
    }
    const abandon = (): Promise<void> => {
      this.abandoned += 1
      return Promise.resolve()
    }
    this.running = this.lease
      .run({ serve, permit, abandon }, this.stop.signal)
      .then(() => {
        this.ended = true
      })
    t.teardown(async () => {
      this.stop.abort()
      await this.running
    })
  }

  order(order: Omit<Order, 'state'>): void {
    const value = formatOrder({ ...order, state: 'open' })
    this.world.etcd.commit([], [{ kind: 'put', key: KEY, value }])
  }

  get answer(): Pick<Order, 'state' | 'answer'> | undefined {
    const entry = this.world.etcd.get(KEY)
    return entry && parseOrder(entry.value)
  }
}

async function start(t: Test, config?: object): Promise<Life> {
  const life = new Life(t, new LeaseWorld(config))
  await life.world.clock.advance(1000)
  if (!life.serving) throw new Error('it serves nothing')
  return life
}

t.test('an order to move is obeyed once, and answered', async t => {
  const life = await start(t)

  life.order({ kind: 'move', to: subnetOf('10.5.9.0/24') })
  await life.world.clock.advance(1000)

  t.equal(life.served.at(-1), '10.5.9.0/24')
  t.match(life.answer, { state: 'done', answer: 'it holds 10.5.9.0/24 now' })
  t.strictSame(life.world.names(), ['10.5.9.0-24'], 'the old one is free')
  life.world.etcd.cut()
  await life.world.clock.advance(60_000)
  t.equal(life.served.length, 2)
})

t.test('while none is free, nothing goes on forwarding from an earlier run', async t => {
  const world = new LeaseWorld({ Network: '10.5.0.0/24', SubnetLen: 26 })
  for (const start of [64, 128, 192]) {
    const lease = world.etcd.grant(TTL_SECONDS)
    world.put(`10.5.0.${start}-26`, `{"PublicIP":"9.9.9.${start}"}`, lease)
  }

  const life = new Life(t, world)
  await world.clock.advance(1000)

  t.match(life.waitsFor, /^out of subnets/)
  t.ok(life.abandoned > 0)
})

t.test('an order that cannot be taken in writing is not obeyed', async t => {
  const life = await start(t)
  for (let time = 0; time < 2; time++) life.host.registry.failNext('commit', 'refused')

  life.order({ kind: 'move' })
  await life.world.clock.advance(10_000)
  t.equal(life.served.length, 1)
  t.match(life.answer, { state: 'open' }, 'and nobody is told that it was')

  // What it could not write then it can now.
  life.world.etcd.cut()
  await life.world.clock.advance(60_000)
  t.equal(life.served.length, 2)
  t.match(life.answer, { state: 'done' })
})

t.test('an order whose taking was written, though nobody heard, is obeyed', async t => {
  const life = await start(t)
  life.host.registry.failNext('commit', 'answer lost')

  life.order({ kind: 'move' })
  await life.world.clock.advance(60_000)

  t.equal(life.served.length, 2)
  t.not(life.served[1], life.served[0])
  t.match(life.answer, { state: 'done' })
})

t.test('a move whose old subnet could not be given back is told as it is', async t => {
  const life = await start(t)
  const [before] = life.served

  life.order({ kind: 'move', to: subnetOf('10.5.9.0/24') })
  await life.world.clock.settle()
  // The taking is written first, then five attempts to give the subnet back.
  for (let time = 0; time < 5; time++) life.host.registry.failNext('get', 'not sent')
  await life.world.clock.advance(300_000)

  const holds = life.served.at(-1) ?? ''
  t.match(
    life.answer,
    holds === before
      ? { state: 'refused', answer: `it holds ${holds} all the same now` }
      : { state: 'done', answer: `it holds ${holds} now` },
  )
})

t.test('with nothing else free an order to move is refused', async t => {
  const tiny = { Network: '10.5.0.0/16', SubnetMin: '10.5.1.0', SubnetMax: '10.5.1.0' }
  const life = await start(t, tiny)

  life.order({ kind: 'move' })
  await life.world.clock.advance(1000)

  t.match(life.answer, { state: 'refused', answer: 'no other is free' })
  t.equal(life.served.length, 1)
})

t.test('a host that is barred hears at once that it is allowed, or released', async t => {
  const life = await start(t)
  const { clock, etcd } = life.world

  life.order({ kind: 'revoke' })
  await clock.advance(1000)
  t.strictSame(life.world.names(), [])
  t.match(life.waitsFor, /an order bars this host/)
  t.match(life.answer, { state: 'done' })

  etcd.commit([], [{ kind: 'delete', key: KEY }])
  await clock.advance(1000)
  t.equal(life.serving, true)

  life.order({ kind: 'revoke' })
  await clock.advance(1000)
  life.lease.release()
  await clock.advance(1000)
  t.equal(life.ended, true)
})

t.test('a stop leaves the permit as it was, the end of a tenure none', async t => {
  const life = await start(t)
  const { permitUntil } = life
  t.ok(permitUntil > life.world.clock.now())

  life.stop.abort('keep')
  await life.running
  t.equal(life.permitUntil, permitUntil)

  const other = await start(t)
  other.order({ kind: 'revoke' })
  await other.world.clock.advance(1000)
  t.equal(other.permitUntil, 0)
})

t.test('after a sleep past the lease, packets go on as soon as it is proven', async t => {
  const life = await start(t)
  const { clock } = life.world

  await clock.oversleep(2 * TTL_SECONDS * 1000)
  await clock.advance(2000)

  t.equal(life.served.length, 1)
  t.ok(life.permitUntil > clock.now() + 60_000, 'a permit for long')
})

t.test(
  'what etcd denies is not forwarded from for long unless somebody is there',
  async t => {
    const world = new LeaseWorld()
    world.put('10.5.7.0-24', '{"PublicIP":"1.1.1.1"}')
    const life = new Life(t, world)
    await world.clock.advance(20_000)
    const now = (): number => world.clock.now()
    t.ok(life.permitUntil > now() + 3_600_000, 'a reservation does not end')

    world.etcd.wipe()
    await world.clock.advance(1000)
    t.strictSame(life.served, ['10.5.7.0/24'])
    t.ok(life.permitUntil <= now() + 30_000, 'a newcomer may have it at any time')
    await world.clock.advance(600_000)
    t.ok(life.permitUntil > now(), 'and while the daemon is there, packets go on')

    world.putConfig()
    await world.clock.advance(60_000)
    t.ok(life.permitUntil > now() + 3_600_000)
    t.strictSame(life.served, ['10.5.7.0/24'])
  },
)
