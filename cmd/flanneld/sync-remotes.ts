import type { Logger } from 'pino'
import type { Backend, Remote } from '../../lib/backend/backend.js'
import { BackendError } from '../../lib/backend/errors.js'
import { Backoff, type Clock } from '../../lib/subnet/clock.js'
import { formatAddress } from '../../lib/subnet/prefix.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'

/** The host is made to match again this often, whatever happened meanwhile. */
const REAPPLY_MS = 5 * 60_000

const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 10_000

/**
 * Hands the latest list of remotes to the backend: at once when it changes, one
 * apply at a time, and the list of the moment when the one before took long.
 */
export class RemoteSync {
  readonly #backend: Backend
  readonly #clock: Clock
  readonly #log: Logger
  /** Undefined until the leases are listed: what a former daemon applied stands until then. */
  #wanted: readonly Remote[] | undefined
  #known: ReadonlyMap<string, string> = new Map()
  #wake = new AbortController()
  /** Why the backend could not apply the list; undefined when it could. */
  trouble: string | undefined

  constructor(backend: Backend, clock: Clock, log: Logger) {
    this.#backend = backend
    this.#clock = clock
    this.#log = log
  }

  get remotes(): readonly Remote[] {
    return this.#wanted ?? []
  }

  update(remotes: readonly Remote[]): void {
    this.#wanted = remotes
    this.#logDifference(remotes)
    this.#wake.abort()
  }

  #logDifference(remotes: readonly Remote[]): void {
    const known = new Map(
      remotes.map(remote => [formatSubnet(remote.subnet), describe(remote)]),
    )
    for (const [subnet, publicIp] of known) {
      const before = this.#known.get(subnet)
      if (before === undefined) this.#log.info({ subnet, publicIp }, 'remote joined')
      else if (before !== publicIp)
        this.#log.info({ subnet, publicIp, before }, 'remote moved')
    }
    for (const [subnet, publicIp] of this.#known) {
      if (!known.has(subnet)) this.#log.info({ subnet, publicIp }, 'remote left')
    }
    this.#known = known
  }

  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(this.#clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    while (!signal.aborted) {
      const wake = new AbortController()
      this.#wake = wake
      try {
        if (this.#wanted !== undefined) await this.#backend.apply(this.#wanted)
        if (this.trouble !== undefined) this.#log.info('remotes applied again')
        this.trouble = undefined
        backoff.reset()
        await this.#clock.sleep(REAPPLY_MS, AbortSignal.any([signal, wake.signal]))
      } catch (error) {
        if (!(error instanceof BackendError)) throw error
        if (this.trouble === undefined) {
          this.#log.error(
            { reason: error.message },
            'cannot apply the remotes; trying again',
          )
        }
        this.trouble = error.message
        await backoff.wait(signal)
      }
    }
  }
}

function describe({ holder }: Remote): string {
  const address = holder.publicIp ?? holder.publicIpv6
  return address === undefined ? '' : formatAddress(address)
}
