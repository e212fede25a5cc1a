import { type Logger, pino } from 'pino'

export const silent: Logger = pino({ level: 'silent' })

/** A log that keeps what is said, for tests of what the operator reads. */
export function collectLog(): { readonly log: Logger; readonly messages: string[] } {
  const messages: string[] = []
  const log = pino(
    { base: null },
    {
      write: line => {
        messages.push((JSON.parse(line) as { msg: string }).msg)
      },
    },
  )
  return { log, messages }
}
