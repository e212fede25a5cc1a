import { ManualClock } from '../fakes/manual-clock.js'
import { FAULTS, type Stage } from './faults.js'
import { Chance } from './random.js'
import { SimulatedNetwork } from './simulated-network.js'

const SECOND = 1000

/** Virtual time of trouble, and of peace behind it: longer when etcd has forgotten hosts, which are believed in for a while. */
const TROUBLE_MS = 400 * SECOND
const PEACE_MS = 300 * SECOND
const LONG_PEACE_MS = 1500 * SECOND

/** Everything is looked at this often, and less often in peace. */
const CHECK_MS = SECOND
const CHECK_IN_PEACE_MS = 15 * SECOND

export interface Simulation {
  readonly seed: number
  readonly violations: readonly string[]
  readonly story: readonly string[]
  /** Virtual seconds that passed. */
  readonly seconds: number
}

export interface SimulateOptions {
  readonly hosts?: number
  readonly troubleMs?: number
}

/**
 * Lets a network of hosts live through trouble that the seed decides, and then
 * through peace, in which it must come to rest: everybody has a subnet of his
 * own, everybody knows everybody, and nobody writes to etcd any more.
 */
export async function simulate(
  seed: number,
  { hosts, troubleMs = TROUBLE_MS }: SimulateOptions = {},
): Promise<Simulation> {
  // What happens is drawn apart from what the hosts draw, so that a change of theirs does not change the story.
  const luck = new ManualClock({ seed: seed * 7919 + 1 })
  const chance = new Chance(() => luck.random())
  const count = hosts ?? chance.between(2, 8)
  const spare = chance.pick([0, 1, 2, 8]) ?? 0
  const network = new SimulatedNetwork(seed, configFor(count, spare))
  const { clock } = network
  const start = clock.now()
  const events: { readonly at: number; readonly act: () => void }[] = []
  const stage: Stage = {
    network,
    chance,
    backups: [],
    later: (ms, act) => {
      events.push({ at: clock.now() + ms, act })
      events.sort((a, b) => a.at - b.at)
    },
  }
  for (let number = 0; number < count; number++) {
    const host = network.addHost()
    stage.later(chance.once(2) ? 0 : chance.between(0, 20_000), () => {
      host.start()
    })
  }
  const meanMs = chance.between(3, 40) * SECOND
  const live = async (untilMs: number, checkMs = CHECK_MS): Promise<void> => {
    while (clock.now() - start < untilMs && network.violations.length === 0) {
      const next = Math.min(events[0]?.at ?? Infinity, clock.now() + checkMs)
      await clock.advance(next - clock.now())
      while ((events[0]?.at ?? Infinity) <= clock.now()) events.shift()?.act()
      await clock.settle()
      network.check()
    }
  }
  await live(60 * SECOND)
  while (clock.now() - start < troubleMs && network.violations.length === 0) {
    chance.weighed(FAULTS)?.strike(stage)
    await live(clock.now() - start + chance.between(0, meanMs * 2))
  }
  network.tell('peace')
  // It begins when the last trouble is over: an outage may have minutes to go.
  const calmAt = Math.max(clock.now(), ...events.map(({ at }) => at))
  await live(calmAt - start)
  const peaceMs = network.hasForgotten ? LONG_PEACE_MS : PEACE_MS
  await live(clock.now() - start + peaceMs, CHECK_IN_PEACE_MS)
  network.checkRest()
  for (const host of network.hosts) host.kill()
  await clock.advance(60 * SECOND)
  const { violations, story } = network
  return { seed, violations, story, seconds: (clock.now() - start) / SECOND }
}

/** So few subnets that hosts get in each other's way, or a /16 for many hosts. */
function configFor(hosts: number, spare: number): object {
  if (hosts > 12) return { Network: '10.5.0.0/16' }
  const last = 16 * Math.min(15, hosts + spare)
  return { Network: '10.5.0.0/24', SubnetLen: 28, SubnetMax: `10.5.0.${last}` }
}
