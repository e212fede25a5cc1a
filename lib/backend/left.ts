import type { BackendContext } from './backend.js'
import { removeLeft } from './kernel/left.js'
import { endLeftPaths } from './udp/packet-path.js'

/**
 * Ends what an earlier run left forwarding, of whatever backend type.
 *
 * @param keepsRefusals routes that refuse packets stay.
 */
export async function endLeft(
  context: BackendContext,
  { keepsRefusals = false } = {},
): Promise<void> {
  await endLeftPaths(context)
  await removeLeft(context, undefined, keepsRefusals)
}
