/* eslint-disable no-console -- a program for the terminal */
/**
 * npm run fuzz [-- --seconds=N] [--seed=N] [NAME…]: varies what foreign bytes look like, keeps
 * what reaches code that nothing has reached before, and ends with 1 when something did not
 * hold; the input is then in the corpus, where the tests find it.
 */
import { parseArgs } from 'node:util'
import { ManualClock } from '../fakes/manual-clock.js'
import { Chance } from '../simulator/random.js'
import { readCorpus, writeCorpus } from './corpus.js'
import { Coverage } from './coverage.js'
import { mutate } from './mutate.js'
import type { Target } from './target.js'
import { TARGETS } from './targets.js'
import { tryInput } from './try-input.js'

/** Inputs between two looks at what was reached, which take a while. */
const BATCH = 100
/** The corpus is read by every run of the tests. */
const MOST_KEPT = 400

const { values, positionals } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
  },
  allowPositionals: true,
})
const seconds = Number(values.seconds)
const unknown = positionals.filter(name => !TARGETS.some(target => target.name === name))
if (unknown.length > 0 || !(seconds > 0))
  throw new Error(
    `usage: npm run fuzz -- [--seconds=N] [--seed=N] [${TARGETS.map(({ name }) => name).join(' | ')}]`,
  )
const chosen = TARGETS.filter(
  ({ name }) => positionals.length === 0 || positionals.includes(name),
)

/** Seconds of each. */
async function fuzz(
  target: Target,
  chance: Chance,
  coverage: Coverage,
): Promise<boolean> {
  const corpus = [
    ...target.seeds.map(seed => Buffer.from(seed as string)),
    ...(await readCorpus(target.name)),
  ]
  for (const input of corpus) await tryInput(target, input)
  await coverage.takeNew()
  const kept: Buffer[] = []
  const end = performance.now() + seconds * 1000
  let count = 0
  let defect: { input: Buffer; reason: string } | undefined
  while (performance.now() < end && defect === undefined) {
    const all = [...corpus, ...kept]
    const batch = Array.from({ length: BATCH }, () =>
      mutate(chance.pick(all) ?? Buffer.alloc(0), all, chance),
    )
    for (const input of batch) {
      count += 1
      const reason = await tryInput(target, input)
      if (reason === undefined) continue
      defect = { input, reason }
      break
    }
    if ((await coverage.takeNew()) === 0) continue
    // Something was new to one of them; V8 tells a place that it has told once no more.
    kept.push(...batch.filter(input => isUnlike(input, all)).slice(0, 3))
  }
  if (defect !== undefined) kept.push(defect.input)
  const stored = [...(await readCorpus(target.name)), ...kept].slice(-MOST_KEPT)
  await writeCorpus(target.name, stored)
  await target.close?.()
  const rate = Math.round(count / seconds)
  console.log(
    `${target.name}: ${count} inputs, ${rate}/s, ${coverage.size} places, corpus ${stored.length}${defect === undefined ? '' : `\n  DEFECT ${defect.reason}\n  ${JSON.stringify(defect.input.toString('latin1'))}`}`,
  )
  return defect === undefined
}

function isUnlike(input: Buffer, others: readonly Buffer[]): boolean {
  return input.length > 0 && !others.some(other => other.equals(input))
}

const luck = new ManualClock({ seed: Number(values.seed) })
const chance = new Chance(() => luck.random())
console.log(`seed ${values.seed}`)
const coverage = new Coverage()
await coverage.start()
let isWell = true
for (const target of chosen) isWell = (await fuzz(target, chance, coverage)) && isWell
process.exitCode = isWell ? 0 : 1
