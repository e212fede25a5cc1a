import type { BackendContext } from './backend.js'
import { removeLeft } from './kernel/left.js'
import { endLeftPaths } from './udp/packet-path.js'

/** Ends what an earlier run left forwarding, of whatever backend type. */
export async function endLeft(context: BackendContext): Promise<void> {
  await endLeftPaths(context)
  await removeLeft(context, undefined)
}
