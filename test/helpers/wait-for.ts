import { setTimeout as delay } from 'node:timers/promises'

/** Thirty times what a machine needs that has nothing else to do. */
const DEADLINE_MS = 60_000
const POLL_MS = 20

/**
 * Asks again and again until there is an answer, which is neither undefined nor
 * false. To throw is no answer either: a daemon that is asked may just be starting.
 * Throws when it takes too long, with what was thrown last.
 */
export async function waitFor<T>(
  what: string,
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = DEADLINE_MS,
): Promise<T> {
  const deadline = performance.now() + timeoutMs
  let cause: unknown
  for (;;) {
    try {
      const answer = await ask()
      if (answer !== undefined && answer !== false) return answer
    } catch (error) {
      cause = error
    }
    if (performance.now() > deadline)
      throw new Error(`${what}: not within ${timeoutMs / 1000} s`, { cause })
    await delay(POLL_MS)
  }
}
