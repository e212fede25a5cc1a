/* eslint-disable no-console -- a program that prints */
/** npm run faults [-- --backend=NAME[,NAME]] [WORD…]: the faults whose names have one of the words. */
import { parseArgs } from 'node:util'
import { BACKENDS, type Backend } from './cluster.js'
import { FAULTS } from './faults.js'
import { type Outcome, tryFaults } from './try-faults.js'

const { values, positionals } = parseArgs({
  options: { backend: { type: 'string', default: BACKENDS.join(',') } },
  allowPositionals: true,
})
const backends = values.backend.split(',').map(name => {
  if (!BACKENDS.includes(name as Backend))
    throw new Error(`--backend: ${name} is none of ${BACKENDS.join(', ')}`)
  return name as Backend
})
const chosen = FAULTS.filter(
  ({ name }) => positionals.length === 0 || positionals.some(word => name.includes(word)),
)

const seconds = (ms: number | undefined): string =>
  ms === undefined ? '–' : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 0)} s`

function row(outcome: Outcome): string {
  const { backend, fault, sent, lost, gapMs, recoverMs, settleMs, failures } = outcome
  const { brokenTransfers, failedQueries } = outcome
  const cells = [
    backend,
    fault,
    `${lost} of ${sent}`,
    seconds(gapMs),
    seconds(recoverMs),
    seconds(settleMs),
    `${brokenTransfers}/${failedQueries}`,
    failures.length === 0 ? 'well' : failures.join('; '),
  ]
  return `| ${cells.join(' | ')} |`
}

console.log(
  '| backend | fault | probes lost | longest gap | flows again after | all as before after | TCP broken/DNS failed | verdict |\n|---|---|---|---|---|---|---|---|',
)
let failed = 0
for (const backend of backends)
  for await (const outcome of tryFaults(backend, chosen)) {
    console.log(row(outcome))
    if (outcome.failures.length > 0) failed += 1
  }
console.log(failed === 0 ? '\nall well' : `\n${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
