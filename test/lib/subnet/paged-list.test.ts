import { setImmediate as endOfTurn } from 'node:timers/promises'
import t from 'tap'
import { SubnetError } from '../../../lib/subnet/errors.js'
import { type Page, type PageRequest, PagedList } from '../../../lib/subnet/paged-list.js'
import type { Entry } from '../../../lib/subnet/registry.js'

const entry = (index: number): Entry => ({
  key: `/x/${index}`,
  value: '',
  createRevision: 1n,
  modRevision: 1n,
})

const LATE = new SubnetError('ERR_REGISTRY_UNAVAILABLE', 'no answer in 5 s')
const COMPACTED = new SubnetError('ERR_REVISION_COMPACTED', 'compacted')

/** A server with so many entries, whose clock goes on by `msOf` with each answer. */
class Server {
  readonly entries: Entry[]
  readonly requests: PageRequest<number>[] = []
  /** What becomes of the request of that number, from 1 on. */
  readonly failures = new Map<number, SubnetError>()
  readonly list: PagedList<number>
  #now = 0

  constructor(count: number, msOf: (limit: number) => number = () => 1) {
    this.entries = Array.from({ length: count }, (_, index) => entry(index))
    const read = (request: PageRequest<number>): Promise<Page<number>> => {
      this.requests.push(request)
      const failure = this.failures.get(this.requests.length)
      this.#now += failure === LATE ? 5000 : msOf(request.limit)
      return failure === undefined
        ? Promise.resolve(this.#page(request))
        : Promise.reject(failure)
    }
    this.list = new PagedList(read, () => this.#now)
  }

  get limits(): number[] {
    return this.requests.map(({ limit }) => limit)
  }

  #page({ cursor = 0, limit, revision }: PageRequest<number>): Page<number> {
    const end = cursor + limit
    return {
      // The newest goes up with each answer, as where others write.
      revision: revision ?? BigInt(10 + this.requests.length),
      entries: this.entries.slice(cursor, end),
      next: end < this.entries.length ? end : undefined,
    }
  }
}

t.test('all there is, as of the first answer', async t => {
  for (const count of [0, 1, 50, 51, 5000]) {
    const server = new Server(count)
    const { revision, entries } = await server.list.read()
    t.strictSame(entries, server.entries)
    t.equal(revision, 11n)
    t.ok(server.requests.slice(1).every(request => request.revision === 11n))
  }
})

t.test('pages double while they come quickly', async t => {
  const server = new Server(50_000)
  await server.list.read()
  t.strictSame(server.limits.slice(0, 5), [50, 100, 200, 400, 800])
  t.strictSame(server.limits.slice(-2), [16_000, 16_000])
})

t.test('and grow by half while they come soon', async t => {
  const server = new Server(238, () => 500)
  await server.list.read()
  t.strictSame(server.limits, [50, 75, 113])
})

t.test('one that comes neither soon nor late is followed by its like', async t => {
  const server = new Server(150, () => 1000)
  await server.list.read()
  t.strictSame(server.limits, [50, 50, 50])
})

t.test(
  'one that comes late is followed by a shorter one, also in the next list',
  async t => {
    const server = new Server(100, limit => limit * 60)
    await server.list.read()
    t.strictSame(server.limits, [50, 25, 25])
    await server.list.read()
    t.equal(server.limits[3], 25)
  },
)

t.test(
  'one that does not come in time is asked for again, and what has come counts',
  async t => {
    const server = new Server(1000)
    server.failures.set(3, LATE).set(5, LATE)
    const { entries } = await server.list.read()
    t.strictSame(entries, server.entries)
    t.strictSame(server.limits, [50, 100, 200, 100, 200, 100, 200, 400, 800])
    t.equal(server.requests[3]?.cursor, 150)
  },
)

t.test('but not for ever, and the first not at all', async t => {
  const late = new Server(1000)
  for (let number = 2; number < 9; number++) late.failures.set(number, LATE)
  await t.rejects(late.list.read(), LATE)
  t.equal(late.requests.length, 3)

  const away = new Server(1000)
  away.failures.set(1, LATE)
  await t.rejects(away.list.read(), LATE)
  t.equal(away.requests.length, 1)
  await away.list.read()
  t.equal(away.limits[1], 25, 'and then with less in it')
})

t.test('a revision that is compacted: from the beginning, a few times', async t => {
  const server = new Server(1000)
  server.failures.set(2, COMPACTED)
  const { revision, entries } = await server.list.read()
  t.strictSame(entries, server.entries)
  t.equal(revision, 13n)
  t.equal(server.requests[2]?.cursor, undefined)

  const busy = new Server(1000)
  for (const number of [2, 4, 6]) busy.failures.set(number, COMPACTED)
  await t.rejects(busy.list.read(), { code: 'ERR_REGISTRY_UNAVAILABLE' })
})

t.test(
  'those who ask in one turn get one answer, the others one of their own',
  async t => {
    const server = new Server(10)
    const [first, second] = await Promise.all([server.list.read(), server.list.read()])
    t.equal(first, second)
    t.equal(server.requests.length, 1)

    const early = server.list.read()
    await endOfTurn()
    const late = server.list.read()
    t.not(await early, await late)
    t.equal(server.requests.length, 3)

    server.failures.set(4, COMPACTED).set(5, COMPACTED).set(6, COMPACTED)
    for (const answer of [server.list.read(), server.list.read()])
      await t.rejects(answer, { code: 'ERR_REGISTRY_UNAVAILABLE' })
    await server.list.read()
  },
)
