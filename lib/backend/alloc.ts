import { untilAborted } from '../subnet/loops.js'
import {
  type Backend,
  type BackendContext,
  type BackendPlan,
  UNKNOWN_REACH,
} from './backend.js'
import { OVERHEAD } from './mtu.js'
import { endLeft } from './left.js'

/** Takes a lease and writes the environment file; how packets travel is somebody else's matter. */
export function planAlloc(context: BackendContext): BackendPlan {
  const { underlay } = context
  return {
    leaseType: '',
    overlayMtu: underlay.mtu - OVERHEAD.alloc(),
    endLeft: () => endLeft(context),
    start: async () => {
      await endLeft(context)
      return new AllocBackend(underlay.device)
    },
  }
}

class AllocBackend implements Backend {
  readonly device: string
  readonly trouble = undefined
  readonly note = undefined
  readonly reach = UNKNOWN_REACH

  constructor(device: string) {
    this.device = device
  }

  async apply(): Promise<void> {
    // Nothing of this host depends on the remotes.
  }

  routeTo(): undefined {
    return undefined
  }

  async permit(): Promise<void> {
    // No packet passes through us.
  }

  async run(signal: AbortSignal): Promise<void> {
    await untilAborted(signal)
  }

  describe(): Promise<Record<string, unknown>> {
    return Promise.resolve({ type: 'alloc', device: this.device })
  }

  async close(): Promise<void> {
    // Nothing was made.
  }
}
