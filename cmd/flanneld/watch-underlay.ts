import { BackendError } from '../../lib/backend/errors.js'
import { onKernelChange } from '../../lib/backend/on-kernel-change.js'
import type { Underlay } from '../../lib/backend/underlay.js'
import { FAMILIES, sameAddress } from '../../lib/subnet/prefix.js'
import type { DaemonContext } from './daemon.js'
import type { PreparedNetwork } from './prepare-network.js'
import { Rejoin } from './rejoin.js'
import { chooseUnderlayNow } from './this-host.js'

/** An address may be gone for a moment while it is renewed. */
const SETTLE_MS = 500

/** Looked at this often even if nothing was heard. */
const POLL_MS = 60_000

/** And this often while there is none. */
const RETRY_MS = 5000

/**
 * Notices when this host's address or interface to the others changes (DHCP, a
 * replugged cable) and rejects with Rejoin: the record follows, the subnet stays.
 * While there is none to change to, all stays as it is.
 */
export async function watchUnderlay(
  context: DaemonContext,
  { config, underlay }: PreparedNetwork,
  signal: AbortSignal,
): Promise<void> {
  const { flags, state, clock, log } = context
  const look = async (): Promise<boolean> => {
    try {
      const now = await chooseUnderlayNow(flags, config, underlay.addresses)
      state.note('underlay', undefined)
      const change = describeChange(underlay, now)
      if (change !== undefined) throw new Rejoin(change)
      return true
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      state.note('underlay', error.message)
      return false
    }
  }
  const objects = ['link', 'address', 'route'] as const
  const times = { settleMs: SETTLE_MS, pollMs: POLL_MS, retryMs: RETRY_MS }
  await onKernelChange({ objects, ...times, clock, log, look }, signal)
}

function describeChange(before: Underlay, now: Underlay): string | undefined {
  if (before.device !== now.device || before.index !== now.index)
    return `the interface to other hosts is ${now.device} now`
  if (before.mtu !== now.mtu) return `the MTU of ${now.device} is ${now.mtu} now`
  const isSame = FAMILIES.every(
    family =>
      sameAddress(before.addresses[family], now.addresses[family]) &&
      sameAddress(before.publicAddresses[family], now.publicAddresses[family]),
  )
  return isSame ? undefined : `the address of ${now.device} has changed`
}
