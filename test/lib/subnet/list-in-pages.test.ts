import t from 'tap'
import {
  type Page,
  type PageRequest,
  listInPages,
} from '../../../lib/subnet/list-in-pages.js'
import type { Entry } from '../../../lib/subnet/registry.js'

const entry = (index: number): Entry => ({
  key: `/x/${String(index).padStart(6, '0')}`,
  value: '',
  createRevision: 1n,
  modRevision: 1n,
})

/** Lists `count` entries of a server whose clock goes on by `msOf` with each answer. */
async function list(count: number, msOf: (limit: number) => number) {
  const entries = Array.from({ length: count }, (_, index) => entry(index))
  const requests: PageRequest[] = []
  let now = 0
  const readPage = (request: PageRequest): Promise<Page> => {
    requests.push(request)
    now += msOf(request.limit)
    const start = entries.findIndex(({ key }) =>
      request.isBehind ? key > request.from : key >= request.from,
    )
    const page = start < 0 ? [] : entries.slice(start, start + request.limit)
    // The newest revision goes up with each answer, as where others write.
    const revision = request.revision ?? BigInt(10 + requests.length)
    return Promise.resolve({ revision, entries: page, more: start + page.length < count })
  }
  const snapshot = await listInPages('/x/', readPage, () => now)
  t.strictSame(snapshot.entries, entries)
  t.equal(snapshot.revision, 11n, 'as of the first answer')
  t.ok(requests.slice(1).every(({ revision }) => revision === 11n))
  return requests.map(({ limit }) => limit)
}

t.test('pages double while they come quickly', async t => {
  t.strictSame(await list(0, () => 1), [100])
  t.strictSame(await list(100, () => 1), [100])
  t.strictSame(await list(5000, () => 1), [100, 200, 400, 800, 1600, 3200])
  t.strictSame((await list(50_000, () => 1)).slice(-2), [16_000, 16_000])
})

t.test('a page that takes long is followed by a shorter one', async t => {
  const limits = await list(500, limit => limit * 30)
  t.strictSame(limits.slice(0, 3), [100, 50, 50])
})

t.test('a page that comes neither soon nor late is followed by its like', async t => {
  t.strictSame(await list(300, () => 1000), [100, 100, 100])
})
