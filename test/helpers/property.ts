import fc from 'fast-check'
import type { Test } from 'tap'

/** The seed of every property test, so that a run can be repeated: FC_SEED=… overrides it. */
export const SEED = readNumber('FC_SEED', 8285)

/** Inputs per property; FC_RUNS=100000 is a night's fuzzing. */
const RUNS = readNumber('FC_RUNS', 300)

function readNumber(name: string, otherwise: number): number {
  const text = process.env[name]
  if (text === undefined || text === '') return otherwise
  const value = Number(text)
  if (Number.isInteger(value)) return value
  throw new RangeError(`${name} is ${text}; it must be a whole number`)
}

fc.configureGlobal({ seed: SEED, numRuns: RUNS })

/** Asserts a property; when it fails, fast-check says for which input and after shrinking. */
export async function holds<Ts>(
  t: Test,
  property: fc.IRawProperty<Ts>,
  options: fc.Parameters<Ts> = {},
): Promise<void> {
  await fc.assert(property, options)
  t.pass(`holds for ${options.numRuns ?? RUNS} inputs (FC_SEED=${SEED})`)
}

export { fc }
