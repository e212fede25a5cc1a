import type { Target } from './target.js'

/** A parser that takes longer for some thousand bytes holds up the daemon. */
const MOST_MS = 1000

/** What does not hold of a target with this input; undefined when all does. */
export async function tryInput(
  { run, refusals = [] }: Target,
  input: Buffer,
): Promise<string | undefined> {
  const begin = process.cpuUsage()
  try {
    await run(input)
  } catch (error) {
    if (!refusals.some(refusal => error instanceof refusal))
      return error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  // Of the processor: other work is none of the parser's doing.
  const { user, system } = process.cpuUsage(begin)
  const tookMs = (user + system) / 1000
  return tookMs > MOST_MS ? `it took ${Math.round(tookMs)} ms` : undefined
}
