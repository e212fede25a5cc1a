import type { Logger } from 'pino'
import { sendUnixDatagram } from '../../lib/linux/unix-socket.js'

/**
 * Tells systemd the state of the service (sd_notify(3)); does nothing outside of
 * a unit. A socket that does not answer is logged and changes nothing.
 */
export function notifySystemd(state: string, log: Logger): void {
  const path = process.env['NOTIFY_SOCKET']
  if (path === undefined || path === '') return
  try {
    sendUnixDatagram(path, state)
  } catch (error) {
    log.warn({ reason: String(error) }, 'cannot notify systemd')
  }
}
