/**
 * Networks that live through trouble which a seed decides. SIMULATE_SEEDS=5000
 * is a night's run; `npm run simulate -- --seeds 1 --from SEED --story` tells
 * what happened under one seed.
 */
import t from 'tap'
import { simulate } from './simulate.js'

t.setTimeout(600_000)

const SEEDS = Number(process.env['SIMULATE_SEEDS'] ?? 25)

t.test(
  'whatever happens, no container is stranded and no subnet held twice',
  { timeout: 600_000 },
  async t => {
    let seconds = 0
    for (let seed = 1; seed <= SEEDS; seed++) {
      const result = await simulate(seed)
      seconds += result.seconds
      t.strictSame(result.violations, [], `seed ${seed}`)
    }
    t.comment(`${SEEDS} seeds, ${(seconds / 3600).toFixed(0)} virtual hours`)
  },
)

t.test(
  'a network of sixty hosts comes to rest as well',
  { timeout: 300_000 },
  async t => {
    const { violations } = await simulate(1, { hosts: 60, troubleMs: 120_000 })

    t.strictSame(violations, [])
  },
)

t.test('a seed tells the same story every time', async t => {
  const [first, second] = [await simulate(7), await simulate(7)]

  t.strictSame(first, second)
  t.ok(first.story.length > 20)
})
