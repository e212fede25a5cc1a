/** What the fuzzer (npm run fuzz) has found worth keeping, and the seeds that it begins with. */
import t from 'tap'
import { readCorpus } from './corpus.js'
import { TARGETS } from './targets.js'
import { tryInput } from './try-input.js'

for (const target of TARGETS) {
  t.test(target.name, async t => {
    const seeds = target.seeds.map(seed => Buffer.from(seed as string))
    const inputs = [...seeds, ...(await readCorpus(target.name))]
    const defects: string[] = []
    for (const input of inputs) {
      const reason = await tryInput(target, input)
      if (reason !== undefined) defects.push(`${input.toString('base64')}: ${reason}`)
    }
    await target.close?.()
    t.strictSame(defects, [], `${inputs.length} inputs`)
  })
}

t.test('a defect is one', async t => {
  const target = {
    name: 'broken',
    seeds: [],
    run: (input: Buffer) => {
      if (input[0] === 7) throw new TypeError('seven')
    },
    refusals: [RangeError],
  }
  t.equal(await tryInput(target, Buffer.from([1])), undefined)
  t.match(await tryInput(target, Buffer.from([7])), /seven/)
})
