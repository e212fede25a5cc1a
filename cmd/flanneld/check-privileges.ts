import { mayAdministerNetwork } from '../../lib/linux/privileges.js'
import { StartError } from './start-error.js'

/** Early, so that nobody wonders about the first device or route that cannot be made. */
export async function checkPrivileges(): Promise<void> {
  if (await mayAdministerNetwork()) return
  throw new StartError(
    'flanneld may not change the network of this host; run it as root or with CAP_NET_ADMIN (and CAP_NET_RAW)',
  )
}
