import type { Logger } from 'pino'
import { sendUnixDatagram } from '../../lib/linux/unix-socket.js'
import type { Clock } from '../../lib/subnet/clock.js'

/** systemd shows a line that is so old at most. */
const STATUS_MS = 2000

/**
 * Tells systemd the state of the service (sd_notify(3)); does nothing outside of
 * a unit. A socket that takes no notice is logged once and changes nothing.
 */
export function notifySystemd(state: string, log: Logger): void {
  const path = process.env['NOTIFY_SOCKET']
  if (path === undefined || path === '') return
  try {
    sendUnixDatagram(path, state)
    deaf.delete(path)
  } catch (error) {
    if (!deaf.has(path)) log.warn({ reason: String(error) }, 'cannot notify systemd')
    deaf.add(path)
  }
}

/** Sockets that did not take the last notice: said once. */
const deaf = new Set<string>()

/**
 * Tells systemd, until `signal` aborts, how it goes whenever that changes, and that
 * this process lives, twice in the time after which the unit's watchdog kills it
 * (sd_watchdog_enabled(3)).
 */
export async function keepSystemdInformed(
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
  oneLine: () => string,
  signal: AbortSignal,
): Promise<void> {
  if ((process.env['NOTIFY_SOCKET'] ?? '') === '') return
  const watchdogMs = readWatchdogMs()
  let said = ''
  while (!signal.aborted) {
    const line = oneLine()
    const news = [
      ...(line === said ? [] : [`STATUS=${line}`]),
      ...(watchdogMs === undefined ? [] : ['WATCHDOG=1']),
    ]
    said = line
    if (news.length > 0) notifySystemd(news.join('\n'), log)
    await clock.sleep(Math.min(STATUS_MS, (watchdogMs ?? Infinity) / 2), signal)
  }
}

/** Undefined when the unit has none, or means another process. */
function readWatchdogMs(): number | undefined {
  const microseconds = Number(process.env['WATCHDOG_USEC'])
  const pid = process.env['WATCHDOG_PID'] ?? ''
  const isOurs = pid === '' || Number(pid) === process.pid
  return isOurs && microseconds > 0 ? microseconds / 1000 : undefined
}
