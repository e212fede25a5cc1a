import { type FailedLine, forceBatch } from '../../linux/ip-batch.js'
import type { IpObject } from '../../linux/ip-monitor.js'
import { forceWg } from '../../linux/wg.js'
import type { BackendContext } from '../backend.js'
import { BackendError } from '../errors.js'
import { onKernelChange } from '../on-kernel-change.js'
import { describeRoutes } from './found.js'
import {
  type Changes,
  type KernelObject,
  type KernelObjects,
  type Program,
  byKey,
  changesBetween,
} from './objects.js'
import { Rivalry } from './rivalry.js'

/** Changes that follow each other closely are looked at once. */
const SETTLE_MS = 100

/** Looked at this often even if nothing was heard, unless the backend says otherwise. */
const POLL_MS = 120_000

/** And this often while the host could not be put right. */
const RETRY_MS = 5000

/** Of a list that may be as long as the network, in the status and the log. */
export const MOST_SHOWN = 20

const WATCHED: readonly IpObject[] = ['link', 'address', 'route', 'neigh']

/** The life of neighbours that nobody has made: what the bridges of a host full of containers tell of all day. */
const LEARNT = / (REACHABLE|STALE|DELAY|PROBE|FAILED|INCOMPLETE)\b/

function isChurn(line: string, devices: readonly string[]): boolean {
  return (
    line === '' ||
    (LEARNT.test(line) && !devices.some(device => line.includes(` dev ${device} `)))
  )
}

/** What of a host's kernel is ours. */
export interface Kept {
  /** Devices of our own. */
  readonly devices: readonly string[]
  /** Makes and mends our own devices. Returns the names of those that it changed. */
  ensureDevices(): Promise<string[]>
  /** What the kernel is to have; undefined as long as nobody knows. */
  want(): Promise<readonly KernelObject[] | undefined>
  /** What it has of ours. */
  find(): Promise<readonly KernelObject[]>
  /** Says how packets could go another way than by what was made; undefined when they cannot. */
  prove?(): Promise<string | undefined>
  /** Whether an object stays when the rest is taken away. */
  stays?(object: KernelObject): boolean
  /** Milliseconds between looks when nothing was heard, where not every change is. */
  readonly pollMs?: number | undefined
}

/**
 * Makes the kernel have what is wanted, and puts right what others change. Both
 * are the same: look, compare, write the difference.
 */
export class KernelKeeper {
  readonly #context: Pick<BackendContext, 'clock' | 'log'>
  readonly #kept: Kept
  readonly #rivalry: Rivalry
  /** Specs, by key, of what was found or put last: what differs was changed by somebody else. */
  #known: ReadonlyMap<string, string> = new Map()
  /** How packets could go another way; undefined when they cannot. */
  #proof: string | undefined
  /** Why the host could not be put right; undefined when it could. */
  #failure: string | undefined
  /** Objects and devices of ours that others had changed. */
  #repairs = 0
  /** One look at a time. */
  #busy: Promise<unknown> = Promise.resolve()

  constructor(context: Pick<BackendContext, 'clock' | 'log'>, kept: Kept) {
    this.#context = context
    this.#kept = kept
    this.#rivalry = new Rivalry(context.clock)
  }

  /** Makes the host as it is to be. Throws BackendError. */
  async settle(): Promise<void> {
    await this.#inTurn(() => this.#settle())
  }

  /** Takes away what of ours is there. Throws BackendError. */
  async clear(): Promise<void> {
    await this.#inTurn(async () => {
      this.#known = new Map()
      const found = byKey(await this.#kept.find())
      const staying = [...found.values()].filter(
        each => this.#kept.stays?.(each) === true,
      )
      await make(changesBetween(found, byKey(staying)))
    })
  }

  /** Puts right what others change, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#context
    const look = (): Promise<boolean> => this.#repair()
    const { pollMs = POLL_MS } = this.#kept
    const times = { settleMs: SETTLE_MS, pollMs, retryMs: RETRY_MS }
    const isReason = (line: string): boolean => !isChurn(line, this.#kept.devices)
    const options = { objects: WATCHED, isReason, ...times, clock, log, look }
    await onKernelChange(options, signal)
  }

  /** Says once what keeps the host from being put right, and when nothing does any more. */
  async #repair(): Promise<boolean> {
    const { log } = this.#context
    const before = this.#failure
    try {
      await this.settle()
      this.#failure = undefined
      if (before !== undefined) log.info('the host is as it should be again')
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      this.#failure = error.message
      if (before !== error.message)
        log.error({ reason: error.message }, 'cannot put the host right; trying again')
    }
    return this.trouble === undefined
  }

  async #inTurn(act: () => Promise<void>): Promise<void> {
    const turn = this.#busy.then(act)
    this.#busy = turn.catch(() => undefined)
    try {
      await turn
    } catch (cause) {
      if (cause instanceof BackendError) throw cause
      throw new BackendError('ERR_DEVICE', (cause as Error).message, { cause })
    }
  }

  /** Nothing is touched before it is known what is wanted: what a former daemon made stands until then. */
  async #settle(): Promise<void> {
    const wanted = await this.#kept.want()
    if (wanted === undefined) return
    const devices = await this.#kept.ensureDevices()
    if (devices.length > 0) this.#context.log.info({ devices }, 'devices made or mended')
    const objects = byKey(wanted)
    const found = byKey(await this.#kept.find())
    await this.#sayRepaired(found, objects)
    await make(this.#rivalry.spare(changesBetween(found, objects)))
    this.#known = new Map(wanted.map(({ key, spec }) => [key, spec]))
    this.#proof = await this.#kept.prove?.()
  }

  /** What we wanted before and want now, and is not so, somebody else has changed. */
  async #sayRepaired(found: KernelObjects, wanted: KernelObjects): Promise<void> {
    const { log } = this.#context
    const changed = [...wanted.values()].filter(
      ({ key, spec }) =>
        this.#known.get(key) === spec &&
        found.get(key)?.spec !== spec &&
        !this.#rivalry.isSpared(key),
    )
    this.#repairs += changed.length
    const quarrels = changed.filter(({ key }) => this.#rivalry.note(key))
    const [first] = quarrels
    if (first !== undefined)
      log.error(
        {
          count: quarrels.length,
          first: first.key,
          wanted: first.spec,
          now: found.get(first.key)?.spec ?? (await describeRoutes(first.key)) ?? 'gone',
        },
        'somebody changes this again and again; leaving it for a minute',
      )
    if (changed.length > quarrels.length)
      log.warn(
        { count: changed.length, first: changed[0]?.key },
        'routes or neighbours of ours were changed; put back',
      )
  }

  /** What keeps packets from their way; undefined when nothing does. */
  get trouble(): string | undefined {
    if (this.#failure !== undefined) return this.#failure
    if (this.#proof !== undefined) return this.#proof
    const { objects } = this.#rivalry
    if (objects.length === 0) return undefined
    const more = objects.length > 1 ? ` and ${objects.length - 1} more` : ''
    return `somebody changes ${objects[0] ?? ''}${more} again and again; left alone for a minute (ip monitor shows what comes and goes)`
  }

  /** For the status. */
  describe(): Record<string, unknown> {
    const rivals = this.#rivalry.objects
    return {
      objects: this.#known.size,
      repairs: this.#repairs,
      ...(rivals.length > 0 && {
        rivals: rivals.slice(0, MOST_SHOWN),
        rivalsCount: rivals.length,
      }),
    }
  }
}

async function make({ removed, put }: Changes): Promise<void> {
  const failed: FailedLine[] = []
  for (const [program, lines] of inBatches([
    ...removed.map(object => [object.program, object.remove] as const),
    ...put.flatMap(({ program, put: lines }) =>
      lines.map(line => [program, line] as const),
    ),
  ])) {
    const force = program === 'wg' ? forceWg(lines) : forceBatch(program, lines)
    failed.push(...(await force))
  }
  const [first] = failed.filter(failure => !isGone(failure))
  if (first !== undefined)
    throw new BackendError('ERR_DEVICE', `${first.line}: ${first.why}`)
}

/** What is gone already need not be removed. */
function isGone({ line, why }: FailedLine): boolean {
  return (
    line.includes(' delete ') && /No such|Cannot find device|does not exist/.test(why)
  )
}

/** Lines of one program that follow each other go together. */
function inBatches(
  lines: readonly (readonly [Program, string])[],
): [Program, string[]][] {
  const batches: [Program, string[]][] = []
  for (const [program, line] of lines) {
    const last = batches.at(-1)
    if (last?.[0] === program) last[1].push(line)
    else batches.push([program, [line]])
  }
  return batches
}
