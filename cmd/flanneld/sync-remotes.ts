import type { Logger } from 'pino'
import { SharedAddresses } from './shared-addresses.js'
import type { Backend, Remote } from '../../lib/backend/backend.js'
import { BackendError } from '../../lib/backend/errors.js'
import { Backoff, type Clock } from '../../lib/subnet/clock.js'
import { formatAddress } from '../../lib/subnet/prefix.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'

/** The host is made to match again this often, whatever happened meanwhile. */
const REAPPLY_MS = 5 * 60_000

/** Of changes that come at once, each of these is said, and then their number. */
const MOST_SAID = 20

const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 10_000

export interface RemoteSyncOptions {
  readonly backend: Pick<Backend, 'apply'>
  /** The list as it is to be now. */
  readonly choose: () => readonly Remote[]
  /** Hears of each list that the backend has taken. */
  readonly applied: (remotes: readonly Remote[]) => void
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Hands the latest list of remotes to the backend: at once when it changes, one
 * apply at a time, and the list of the moment when the one before took long.
 */
export class RemoteSync {
  readonly shared = new SharedAddresses()
  readonly #options: RemoteSyncOptions
  /** How often the backend has taken a list, and what time that took altogether. */
  readonly applies = { count: 0, seconds: 0 }
  /** Empty until the leases are known: what a former daemon applied stands until then. */
  #applied: readonly Remote[] = []
  #isAwake = false
  #known: ReadonlySet<Remote> = new Set()
  #wake = new AbortController()
  /** Why the backend could not apply the list; undefined when it could. */
  trouble: string | undefined

  constructor(options: RemoteSyncOptions) {
    this.#options = options
  }

  /** What was handed to the backend last. */
  get remotes(): readonly Remote[] {
    return this.#applied
  }

  /** The leases have changed. */
  wake(): void {
    this.#isAwake = true
    this.#wake.abort()
  }

  /** Says who came, went or moved. A remote that has not changed is the same object. */
  #note(remotes: readonly Remote[]): void {
    const said = new Said(this.#options.log)
    const before = this.#known
    this.#known = new Set(remotes)
    const gone = new Map<string, string>()
    for (const remote of before) {
      if (this.#known.has(remote)) continue
      const publicIp = describe(remote)
      gone.set(formatSubnet(remote.subnet), publicIp)
      this.shared.delete(publicIp, remote)
    }
    for (const remote of remotes) {
      if (before.has(remote)) continue
      const subnet = formatSubnet(remote.subnet)
      const [publicIp, former] = [describe(remote), gone.get(subnet)]
      gone.delete(subnet)
      this.shared.add(publicIp, remote)
      if (former === undefined) said.add('joined', { subnet, publicIp })
      else if (former !== publicIp)
        said.add('moved', { subnet, publicIp, before: former })
    }
    for (const [subnet, publicIp] of gone) said.add('left', { subnet, publicIp })
    said.end()
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options
    const backoff = new Backoff(clock, FIRST_RETRY_MS, LAST_RETRY_MS)
    while (!signal.aborted) {
      const wake = new AbortController()
      this.#wake = wake
      try {
        if (this.#isAwake) await this.#apply()
        if (this.trouble !== undefined) log.info('remotes applied again')
        this.trouble = undefined
        backoff.reset()
        await clock.sleep(REAPPLY_MS, AbortSignal.any([signal, wake.signal]))
      } catch (error) {
        if (!(error instanceof BackendError)) throw error
        if (this.trouble === undefined)
          log.error({ reason: error.message }, 'cannot apply the remotes; trying again')
        this.trouble = error.message
        await backoff.wait(signal)
      }
    }
  }

  async #apply(): Promise<void> {
    const remotes = this.#options.choose()
    this.#note(remotes)
    const begin = performance.now()
    await this.#options.backend.apply(remotes)
    this.applies.count += 1
    this.applies.seconds += (performance.now() - begin) / 1000
    this.#applied = remotes
    this.#options.applied(remotes)
  }
}

/** Tells of each remote, as long as they are not many. */
class Said {
  readonly #log: Logger
  readonly #counts = { joined: 0, moved: 0, left: 0 }

  constructor(log: Logger) {
    this.#log = log
  }

  add(what: 'joined' | 'moved' | 'left', fields: object): void {
    this.#counts[what] += 1
    if (this.#counts[what] <= MOST_SAID) this.#log.info(fields, `remote ${what}`)
  }

  end(): void {
    for (const [what, count] of Object.entries(this.#counts))
      if (count > MOST_SAID)
        this.#log.info({ count: count - MOST_SAID }, `more remotes ${what}`)
  }
}

function describe({ holder }: Remote): string {
  const address = holder.publicIp ?? holder.publicIpv6
  return address === undefined ? '' : formatAddress(address)
}
