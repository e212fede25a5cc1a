import type {
  Backend,
  BackendContext,
  Reach,
  Remote,
  RouteToRemote,
  Session,
} from '../backend.js'
import { runAll } from '../../subnet/loops.js'
import { endLeftPaths } from '../udp/packet-path.js'
import { findObjects } from './found.js'
import { KernelKeeper, MOST_SHOWN } from './keeper.js'
import { networksOf, removeLeft } from './left.js'
import { type KernelObject, RouteToNowhere } from './objects.js'
import type { VerificationRules } from './verification-rules.js'
import { Verification, endVerification } from './verification.js'

/** What a type of backend makes of remotes. */
export interface KernelPlan {
  readonly type: string
  /** Device that packets to remotes leave by. */
  readonly device: string
  /** Devices of our own. */
  readonly devices: readonly string[]
  /** Makes and mends our own devices. Returns the names of those that it changed. */
  ensureDevices(): Promise<string[]>
  removeDevices(): Promise<void>
  /** What the kernel is to have for these remotes, and why some are left out. */
  want(remotes: readonly Remote[]): Promise<Wanted>
  /** What the kernel has of ours beside routes by gateways and entries of VXLAN devices. */
  find?(): Promise<readonly KernelObject[]>
  /** Says how packets to these remotes could go another way; undefined when they cannot. */
  prove?(remotes: readonly Remote[]): Promise<string | undefined>
  /** Routes that refuse packets stay when the subnet is given up. */
  readonly keepsRefusals?: boolean
  /** Milliseconds between looks, where the kernel does not tell of every change. */
  readonly pollMs?: number
  routeTo(remote: Remote): RouteToRemote | undefined
  readonly reach: Reach
  sessions?: Backend['sessions']
  /** How packets of remotes are told from those that somebody has forged; undefined when the device does. */
  readonly verified: Pick<VerificationRules, 'families' | 'direct'> | undefined
  /** For the status. */
  describe(): Record<string, unknown>
}

export interface Wanted {
  readonly objects: readonly KernelObject[]
  readonly skipped: readonly { readonly subnet: string; readonly why: string }[]
}

/** A backend whose packets the kernel carries. */
export class KernelBackend implements Backend {
  readonly #context: BackendContext
  readonly #plan: KernelPlan
  readonly #keeper: KernelKeeper
  /** Undefined when no source is to be verified. */
  readonly #verification: Verification | undefined
  #remotes: readonly Remote[] | undefined
  #skipped: Wanted['skipped'] = []
  /** What another backend type has left is gone. */
  #isAlone = false

  private constructor(context: BackendContext, plan: KernelPlan) {
    this.#context = context
    this.#plan = plan
    this.#keeper = new KernelKeeper(context, {
      devices: plan.devices,
      ensureDevices: () => plan.ensureDevices(),
      want: () => this.#want(),
      find: () => this.#find(),
      prove: async () => plan.prove?.(this.#remotes ?? []),
      pollMs: plan.pollMs,
      stays: object => plan.keepsRefusals === true && object instanceof RouteToNowhere,
    })
    const { verify: mode } = context
    if (mode !== 'off' && plan.verified !== undefined)
      this.#verification = new Verification(context, { ...plan.verified, mode })
  }

  /** Makes the devices; the rest waits for the remotes. Throws BackendError. */
  static async start(context: BackendContext, plan: KernelPlan): Promise<KernelBackend> {
    await plan.ensureDevices()
    return new KernelBackend(context, plan)
  }

  get device(): string {
    return this.#plan.device
  }

  get trouble(): string | undefined {
    return this.#keeper.trouble
  }

  get note(): string | undefined {
    return this.#verification?.note
  }

  async apply(remotes: readonly Remote[]): Promise<void> {
    this.#remotes = remotes
    // Before the routes: an answer may come as soon as there is a way.
    await this.#verification?.apply(remotes)
    if (this.#isAlone) {
      await this.#keeper.settle()
      return
    }
    // What another type has left goes when our own routes stand, so that packets
    // always have a way; unless it is in theirs, as the packet path's route is in IPv6.
    const why = await this.#keeper.settle().catch((error: unknown) => error)
    await removeLeft(this.#context, this.#plan.devices)
    await endLeftPaths(this.#context)
    if (this.#verification === undefined) await endVerification(this.#context)
    this.#isAlone = true
    if (why !== undefined) await this.#keeper.settle()
  }

  async #want(): Promise<readonly KernelObject[] | undefined> {
    if (this.#remotes === undefined) return undefined
    const { objects, skipped } = await this.#plan.want(this.#remotes)
    this.#saySkipped(skipped)
    return objects
  }

  async #find(): Promise<readonly KernelObject[]> {
    const networks = networksOf(this.#context)
    return [
      ...(await findObjects(networks, this.#plan.devices)),
      ...((await this.#plan.find?.()) ?? []),
    ]
  }

  #saySkipped(skipped: Wanted['skipped']): void {
    const before = new Set(this.#skipped.map(({ subnet, why }) => `${subnet} ${why}`))
    const news = skipped.filter(({ subnet, why }) => !before.has(`${subnet} ${why}`))
    for (const { subnet, why } of news.slice(0, MOST_SHOWN))
      this.#context.log.warn({ subnet, reason: why }, 'remote left out')
    if (news.length > MOST_SHOWN)
      this.#context.log.warn({ count: news.length }, 'remotes left out')
    this.#skipped = skipped
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    return this.#plan.routeTo(remote)
  }

  get reach(): Reach {
    return this.#plan.reach
  }

  async sessions(): Promise<(remote: Remote) => Session | undefined> {
    return (await this.#plan.sessions?.()) ?? (() => undefined)
  }

  async permit(): Promise<void> {
    // The kernel carries the packets, whether we are there or not.
  }

  async run(signal: AbortSignal): Promise<void> {
    await runAll(signal, [
      each => this.#keeper.run(each),
      async each => {
        await this.#verification?.run(each)
      },
    ])
  }

  async describe(): Promise<Record<string, unknown>> {
    const skipped = this.#skipped
    return {
      type: this.#plan.type,
      device: this.device,
      ...this.#plan.describe(),
      ...this.#keeper.describe(),
      ...(skipped.length > 0 && {
        skipped: skipped.slice(0, MOST_SHOWN),
        skippedCount: skipped.length,
      }),
      verified: await this.#verification?.describe(),
    }
  }

  /** `keep` leaves the kernel carrying packets. */
  async close(how: 'keep' | 'end'): Promise<void> {
    if (how === 'keep') return
    this.#remotes = undefined
    await this.#keeper.clear()
    await this.#verification?.remove()
    await this.#plan.removeDevices()
  }
}
