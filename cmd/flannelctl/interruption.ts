import { constants } from 'node:os'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Ctrl-C: not a failure to be explained. */
export class Interrupted extends Error {
  readonly exitCode: number

  constructor(signal: (typeof SIGNALS)[number]) {
    super(signal)
    this.exitCode = 128 + constants.signals[signal]
  }
}

/**
 * Aborts at the first signal, with an Interrupted. What there is to end or to remove then
 * is done in peace: timeout(1) and some shells send each signal more than once.
 */
export function interruption(): AbortSignal {
  const controller = new AbortController()
  for (const name of SIGNALS)
    process.on(name, () => {
      controller.abort(new Interrupted(name))
    })
  return controller.signal
}
