import type { Logger } from 'pino'
import { type IpObject, monitorIp } from '../linux/ip-monitor.js'
import type { Clock } from '../subnet/clock.js'
import { runAll } from '../subnet/loops.js'

export interface OnKernelChange {
  readonly objects: readonly IpObject[]
  /** Whether a line of ip-monitor(8) is a reason to look; without it each is. */
  readonly isReason?: (line: string) => boolean
  /** Changes that follow each other closely are looked at once, in ms. */
  readonly settleMs: number
  /** Looked at this often even if nothing was heard, in ms. */
  readonly pollMs: number
  /** And this often, in ms, while not all is well. */
  readonly retryMs: number
  readonly clock: Clock
  readonly log: Logger
  /** Says whether all is well. */
  readonly look: () => Promise<boolean>
}

/** Calls `look` after changes of such kernel objects, and now and then, until `signal` aborts or it rejects. */
export async function onKernelChange(
  {
    objects,
    isReason = () => true,
    settleMs,
    pollMs,
    retryMs,
    clock,
    log,
    look,
  }: OnKernelChange,
  signal: AbortSignal,
): Promise<void> {
  let wake = new AbortController()
  await runAll(signal, [
    async each => {
      let isTold = false
      while (!each.aborted) {
        try {
          await monitorIp(
            objects,
            lines => {
              if (lines.split('\n').some(isReason)) wake.abort()
            },
            each,
          )
        } catch (error) {
          if (!isTold)
            log.warn(
              { objects, everySeconds: pollMs / 1000, reason: String(error) },
              'cannot monitor the kernel; looking now and then',
            )
          isTold = true
          await clock.sleep(retryMs, each)
        }
      }
    },
    async each => {
      let isWell = true
      let lookMs = 0
      for (;;) {
        const waitMs = isWell ? pollMs : retryMs
        await clock.sleep(waitMs, AbortSignal.any([each, wake.signal]))
        // A look that takes long is not begun again at once.
        await clock.sleep(Math.max(settleMs, lookMs), each)
        if (each.aborted) return
        wake = new AbortController()
        const begin = clock.now()
        isWell = await look()
        lookMs = clock.now() - begin
      }
    },
  ])
}
