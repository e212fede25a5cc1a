import { setTimeout as delay } from 'node:timers/promises'

const POLL_MS = 50

/**
 * Asks again and again until `check` has an answer. Rejects after `deadlineMs`
 * with what was waited for, or at once when `check` throws or `signal` aborts.
 */
export async function until<T>(
  what: string,
  deadlineMs: number,
  check: () => Promise<T | undefined> | T | undefined,
  signal?: AbortSignal,
): Promise<T> {
  const end = performance.now() + deadlineMs
  for (;;) {
    signal?.throwIfAborted()
    const answer = await check()
    if (answer !== undefined) return answer
    if (performance.now() > end)
      throw new Error(`gave up after ${deadlineMs / 1000} s: ${what} did not happen`)
    await delay(POLL_MS)
  }
}
