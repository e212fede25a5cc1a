import { type FailedLine, forceBatch } from '../../linux/iproute.js'
import type { IpObject } from '../../linux/ip-monitor.js'
import type { Backend, BackendContext, Remote, RouteToRemote } from '../backend.js'
import { BackendError } from '../errors.js'
import { onKernelChange } from '../on-kernel-change.js'
import { findObjects } from './found.js'
import {
  type Changes,
  type KernelObject,
  type KernelObjects,
  byKey,
  changesBetween,
} from './objects.js'
import { endLeftPaths } from '../udp/packet-path.js'
import { networksOf, removeLeft } from './left.js'
import { Rivalry } from './rivalry.js'

/** Changes that follow each other closely are looked at once. */
const SETTLE_MS = 100

/** Looked at this often even if nothing was heard. */
const POLL_MS = 120_000

/** Of a list that may be as long as the network, in the status and the log. */
const MOST_SHOWN = 20

const WATCHED: readonly IpObject[] = ['link', 'address', 'route', 'neigh']

/** What a type of backend makes of remotes. */
export interface KernelPlan {
  readonly type: string
  /** Device that packets to remotes leave by. */
  readonly device: string
  /** Devices of our own. */
  readonly devices: readonly string[]
  /** Makes and mends our own devices. Returns what was wrong with them. */
  ensureDevices(): Promise<string[]>
  removeDevices(): Promise<void>
  /** What the kernel is to have for these remotes, and why some are left out. */
  want(remotes: readonly Remote[]): Promise<Wanted>
  routeTo(remote: Remote): RouteToRemote | undefined
  /** For the status. */
  describe(): Record<string, unknown>
}

export interface Wanted {
  readonly objects: readonly KernelObject[]
  readonly skipped: readonly { readonly subnet: string; readonly why: string }[]
}

/**
 * A backend whose packets the kernel carries: makes it have what the remotes ask
 * for, and puts right what others change. Both are the same: look, compare, write
 * the difference.
 */
export class KernelBackend implements Backend {
  readonly #context: BackendContext
  readonly #plan: KernelPlan
  readonly #rivalry: Rivalry
  #remotes: readonly Remote[] | undefined
  #skipped: Wanted['skipped'] = []
  /** Specs, by key, of what was found or put last: what differs was changed by somebody else. */
  #known: ReadonlyMap<string, string> = new Map()
  /** Why the host could not be put right; undefined when it could. */
  #trouble: string | undefined
  /** What another backend type has left is gone. */
  #isAlone = false
  /** One look at a time. */
  #busy: Promise<unknown> = Promise.resolve()

  private constructor(context: BackendContext, plan: KernelPlan) {
    this.#context = context
    this.#plan = plan
    this.#rivalry = new Rivalry(context.clock)
  }

  /** Makes the devices; the rest waits for the remotes. Throws BackendError. */
  static async start(context: BackendContext, plan: KernelPlan): Promise<KernelBackend> {
    await plan.ensureDevices()
    return new KernelBackend(context, plan)
  }

  get device(): string {
    return this.#plan.device
  }

  async apply(remotes: readonly Remote[]): Promise<void> {
    this.#remotes = remotes
    await this.#inTurn(() => this.#settle())
  }

  routeTo(remote: Remote): RouteToRemote | undefined {
    return this.#plan.routeTo(remote)
  }

  async permit(): Promise<void> {
    // The kernel carries the packets, whether we are there or not.
  }

  /** Puts right what others change. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#context
    const look = (): Promise<void> => this.#repair()
    const options = { objects: WATCHED, settleMs: SETTLE_MS, pollMs: POLL_MS }
    await onKernelChange({ ...options, clock, log, look }, signal)
  }

  /** Says once what keeps the host from being put right, and when nothing does any more. */
  async #repair(): Promise<void> {
    const { log } = this.#context
    const before = this.#trouble
    try {
      await this.#inTurn(() => this.#settle())
      this.#trouble = undefined
      if (before !== undefined) log.info('the host is as it should be again')
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      this.#trouble = error.message
      if (before !== error.message)
        log.error({ reason: error.message }, 'cannot put the host right; trying again')
    }
  }

  async #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#busy.then(act)
    this.#busy = turn.catch(() => undefined)
    return await turn
  }

  /** Nothing is touched before the remotes are known: what a former daemon made stands until then. */
  async #settle(): Promise<void> {
    const remotes = this.#remotes
    if (remotes === undefined) return
    try {
      const mended = await this.#plan.ensureDevices()
      this.#sayMended(mended)
      const wanted = await this.#plan.want(remotes)
      this.#saySkipped(wanted.skipped)
      const objects = byKey(wanted.objects)
      const found = await this.#find()
      this.#sayRepaired(found, objects)
      await this.#write(found, objects)
      this.#known = new Map(wanted.objects.map(({ key, spec }) => [key, spec]))
    } catch (cause) {
      if (cause instanceof BackendError) throw cause
      throw new BackendError('ERR_DEVICE', (cause as Error).message, { cause })
    }
  }

  /** Makes the kernel have the objects. */
  async #write(found: KernelObjects, objects: KernelObjects): Promise<void> {
    const changes = this.#rivalry.spare(changesBetween(found, objects))
    if (this.#isAlone) {
      await this.#make(changes)
      return
    }
    // What another type has left goes when our own routes stand, so that packets
    // always have a way; unless it is in theirs, as the packet path's route is in IPv6.
    const why = await this.#make(changes).catch((error: unknown) => error)
    await removeLeft(this.#context, this.#plan.devices)
    await endLeftPaths(this.#context)
    this.#isAlone = true
    if (why !== undefined) await this.#make(changesBetween(await this.#find(), objects))
  }

  async #find(): Promise<KernelObjects> {
    return byKey(await findObjects(networksOf(this.#context), this.#plan.devices))
  }

  async #make({ removed, put }: Changes): Promise<void> {
    const failed: FailedLine[] = []
    for (const [program, lines] of inBatches([
      ...removed.map(object => [object.program, object.remove] as const),
      ...put.flatMap(({ program, put: lines }) =>
        lines.map(line => [program, line] as const),
      ),
    ]))
      failed.push(...(await forceBatch(program, lines)))
    // What is gone already need not be removed.
    const [first] = failed.filter(({ line }) => !line.includes(' delete '))
    if (first !== undefined)
      throw new BackendError('ERR_DEVICE', `${first.line}: ${first.why}`)
  }

  /** What we wanted before and want now, and is not so, somebody else has changed. */
  #sayRepaired(found: KernelObjects, wanted: KernelObjects): void {
    const { log } = this.#context
    const changed = [...wanted.values()].filter(
      ({ key, spec }) =>
        this.#known.get(key) === spec &&
        found.get(key)?.spec !== spec &&
        !this.#rivalry.isSpared(key),
    )
    const quarrels = changed.filter(({ key }) => this.#rivalry.note(key))
    const [first] = quarrels
    if (first !== undefined)
      log.error(
        {
          count: quarrels.length,
          first: first.key,
          wanted: first.spec,
          now: found.get(first.key)?.spec ?? 'gone',
        },
        'somebody changes this again and again; leaving it for a minute',
      )
    if (changed.length > quarrels.length)
      log.warn(
        { count: changed.length, first: changed[0]?.key },
        'routes or neighbours of ours were changed; put back',
      )
  }

  #sayMended(mended: readonly string[]): void {
    if (mended.length === 0) return
    const { log } = this.#context
    log.info({ devices: mended }, 'devices made or mended')
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

  describe(): Promise<Record<string, unknown>> {
    return Promise.resolve({
      type: this.#plan.type,
      device: this.device,
      ...this.#plan.describe(),
      objects: this.#known.size,
      ...(this.#trouble !== undefined && { trouble: this.#trouble }),
      ...shown('skipped', this.#skipped),
      ...shown('rivals', this.#rivalry.objects),
    })
  }

  /** `keep` leaves the kernel carrying packets. */
  async close(how: 'keep' | 'end'): Promise<void> {
    if (how === 'keep') return
    await this.#inTurn(async () => {
      this.#remotes = undefined
      const found = await this.#find()
      await this.#make(changesBetween(found, new Map()))
      await this.#plan.removeDevices()
    })
  }
}

/** The first of a list that may be as long as the network, and its length. */
function shown(name: string, list: readonly unknown[]): Record<string, unknown> {
  return list.length === 0
    ? {}
    : { [name]: list.slice(0, MOST_SHOWN), [`${name}Count`]: list.length }
}

/** Lines of one program that follow each other go together. */
function inBatches(
  lines: readonly (readonly ['ip' | 'bridge', string])[],
): ['ip' | 'bridge', string[]][] {
  const batches: ['ip' | 'bridge', string[]][] = []
  for (const [program, line] of lines) {
    const last = batches.at(-1)
    if (last?.[0] === program) last[1].push(line)
    else batches.push([program, [line]])
  }
  return batches
}
