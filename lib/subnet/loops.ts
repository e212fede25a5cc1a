/** Resolves when `signal` aborts and its own clean-up is done; rejects only when the daemon must end. */
export type Loop = (signal: AbortSignal) => Promise<void>

/**
 * Runs every loop until one fails or `signal` aborts, then waits for all of
 * them, so that nothing is still writing routes when the caller goes on.
 */
export async function runAll(signal: AbortSignal, loops: readonly Loop[]): Promise<void> {
  const failure = new AbortController()
  const stop = AbortSignal.any([signal, failure.signal])
  await Promise.all(
    loops.map(loop =>
      loop(stop).catch((error: unknown) => {
        failure.abort(error)
      }),
    ),
  )
  if (failure.signal.aborted) throw failure.signal.reason
}

/** For a part that has nothing to do but to be there. */
export async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>(resolve => {
    signal.addEventListener(
      'abort',
      () => {
        resolve()
      },
      { once: true },
    )
  })
}

/** Waits no longer than until `signal` aborts, and then throws its reason; what was begun goes on. */
export async function unlessAborted<T>(
  answer: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (signal === undefined) return await answer
  const over = new AbortController()
  const aborted = untilAborted(AbortSignal.any([signal, over.signal])).then(() => {
    signal.throwIfAborted()
  })
  try {
    return (await Promise.race([answer, aborted])) as T
  } finally {
    over.abort()
  }
}
