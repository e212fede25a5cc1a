import type { Test } from 'tap'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { waitFor } from '../helpers/wait-for.js'

/** What doctor or why has found. */
export interface Answer {
  readonly checks: readonly string[]
  readonly what: string
  readonly mend: string
}

export const NOTHING: Answer = { checks: [], what: '', mend: '' }

/**
 * Asks as an operator does. What is no answer, because the exit code does not fit or
 * something could not be asked, has that for its only check.
 */
export async function diagnose(on: LabHost, ...args: string[]): Promise<Answer> {
  const { stdout, exitCode, stderr } = await flannelctl(on, args)
  const lines = stdout.split('\n').filter(line => line !== '')
  const found = lines.filter(line => !line.startsWith(' '))
  const isRight = (exitCode === 0) === (found.length === 0)
  if (!isRight || stderr !== '')
    return { ...NOTHING, checks: [`${exitCode}: ${stdout}${stderr}`] }
  return {
    checks: found.map(line => line.replace(/:.*/, '')),
    what: found[0] ?? '',
    mend: lines.find(line => line.startsWith(' '))?.trim() ?? '',
  }
}

/** Breaks something, and says what is to be found. */
export interface Case {
  readonly check: string
  readonly what: RegExp
  readonly spoil: () => Promise<unknown>
  /** Where no command mends it. */
  readonly mend?: () => Promise<unknown>
  readonly tidyUp?: () => Promise<unknown>
}

export interface Means {
  readonly ask: () => Promise<Answer>
  /** What the operator does whom a command is told. */
  readonly mend: (command: string) => Promise<void>
  readonly flows: () => Promise<boolean>
}

/** One cause is found, its command mends it, and packets flow. */
export async function expectCause(
  t: Test,
  { check, what, spoil, mend: other, tidyUp }: Case,
  { ask, mend, flows }: Means,
): Promise<void> {
  await spoil()
  let answer = NOTHING
  await waitFor('it is found', async () => {
    answer = await ask()
    const isAlone = answer.checks.length === 1 && answer.checks[0] === check
    return isAlone && what.test(answer.what)
  }).catch(() => undefined)
  t.same(answer.checks, [check], `one cause is named (${answer.what})`)
  t.match(answer.what, what, 'and what it is')
  if (other === undefined) await mend(answer.mend)
  else await other()
  let after = answer
  const isWell = async (): Promise<boolean> => {
    after = await ask()
    return after.checks.length === 0
  }
  await waitFor('it is mended', isWell).catch(() => undefined)
  t.same(after.checks, [], `"${answer.mend}" mends it (${after.what})`)
  await waitFor('packets flow', flows)
  if (tidyUp === undefined) return
  await tidyUp()
  await waitFor('all is well again', isWell)
}
