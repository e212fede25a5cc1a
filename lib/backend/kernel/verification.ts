import { basename } from 'node:path'
import { z } from 'zod'
import {
  linesToRemove,
  listCounters,
  listSet,
  listTable,
  listTables,
  type NftTable,
  runNft,
} from '../../linux/nft.js'
import { isNotThere } from '../../linux/run.js'
import {
  type Address,
  FAMILIES,
  formatAddress,
  parseAddress,
} from '../../subnet/prefix.js'
import { prefixesOf } from '../../subnet/subnet-key.js'
import { type BackendContext, type Remote, publicAddress } from '../backend.js'
import {
  BLAMED,
  type Membership,
  type Sender,
  type VerificationRules,
  isSameKind,
  linesBetween,
  linesOfTable,
  membershipOf,
} from './verification-rules.js'

/** Looks at the rules come that often; at the sets, which may be long, now and then. */
const LOOKS_PER_FULL_LOOK = 12

/** The table of this daemon alone: another has another run directory. */
export function verificationTable({ runDir }: Pick<BackendContext, 'runDir'>): NftTable {
  const place = basename(runDir).replaceAll(/[^\w.-]/g, '_')
  return { family: 'inet', name: `flanneld-${place}` }
}

/** Whether an earlier run has left its table. */
export async function hasVerification(
  context: Pick<BackendContext, 'runDir'>,
): Promise<boolean> {
  const { family, name } = verificationTable(context)
  const tables = await listTables().catch((error: unknown) => {
    if (isNotThere(error)) return []
    throw error
  })
  return tables.some(table => table.family === family && table.name === name)
}

export async function removeVerification(
  context: Pick<BackendContext, 'runDir'>,
): Promise<void> {
  if (await hasVerification(context))
    await runNft(linesToRemove(verificationTable(context)))
}

/** Takes away what an earlier run has left, if that can be done: the daemon goes on without. */
export async function endVerification(
  context: Pick<BackendContext, 'runDir' | 'log'>,
): Promise<void> {
  try {
    await removeVerification(context)
  } catch (error) {
    context.log.warn(
      { reason: (error as Error).message },
      'cannot look for rules of an earlier run in nftables',
    )
  }
}

/** Lets the kernel take packets of the overlay only from hosts that lease their source. */
export class Verification {
  readonly #context: BackendContext
  readonly #rules: VerificationRules
  readonly #table: NftTable
  #senders: readonly Sender[] | undefined
  #members: Membership = { elements: new Map(), ranged: new Set() }
  /** How nft(8) prints our rules, since each version has its own way. */
  #learnt: string | undefined
  #looks = 0
  /** Why sources are not verified; undefined when they are. */
  #failure: string | undefined
  /** One change at a time. */
  #busy: Promise<unknown> = Promise.resolve()

  constructor(context: BackendContext, rules: VerificationRules) {
    this.#context = context
    this.#rules = rules
    this.#table = verificationTable(context)
  }

  /** For the operator, when sources are not verified although they were to be. */
  get note(): string | undefined {
    return this.#failure === undefined
      ? undefined
      : `the sources of packets are not verified: ${this.#failure}; --verify=off does without`
  }

  /** Lets these remotes in, and nobody else. A host without nftables goes on without. */
  async apply(remotes: readonly Remote[]): Promise<void> {
    this.#senders = remotes.map(toSender)
    await this.#inTurn(() => this.#ensure())
  }

  /** Puts right what others change, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, resyncMs } = this.#context
    for (;;) {
      await clock.sleep(resyncMs, signal)
      if (signal.aborted) return
      await this.#inTurn(() => this.#look())
    }
  }

  async remove(): Promise<void> {
    this.#senders = undefined
    await this.#busy
    this.#learnt = undefined
    await endVerification(this.#context)
  }

  async #inTurn(act: () => Promise<void>): Promise<void> {
    const turn = this.#busy.then(() => this.#guarded(act))
    this.#busy = turn
    await turn
  }

  async #guarded(act: () => Promise<void>): Promise<void> {
    const { log } = this.#context
    const before = this.#failure
    try {
      await act()
      this.#failure = undefined
      if (before !== undefined) log.info('the sources of packets are verified')
    } catch (error) {
      this.#learnt = undefined
      this.#failure = (error as Error).message
      if (before !== this.#failure)
        log.error({ reason: this.#failure }, 'cannot verify the sources of packets')
    }
  }

  async #ensure(): Promise<void> {
    if (this.#senders === undefined) return
    const wanted = membershipOf(this.#rules, this.#senders)
    if (this.#learnt === undefined || !isSameKind(this.#members, wanted)) {
      await this.#make(wanted)
      return
    }
    const { elements } = this.#members
    try {
      await runNft(linesBetween(this.#table.name, elements, wanted.elements))
      this.#members = wanted
    } catch {
      // Somebody has changed the table.
      await this.#make(wanted)
    }
  }

  async #make(members: Membership): Promise<void> {
    const counted = await listCounters(this.#table)
    await runNft(linesOfTable(this.#table.name, this.#rules, members, counted))
    this.#members = members
    this.#learnt = await listTable(this.#table, true)
  }

  async #look(): Promise<void> {
    if (this.#senders === undefined) return
    this.#looks += 1
    const isRight =
      this.#learnt !== undefined &&
      (await listTable(this.#table, true)) === this.#learnt &&
      (this.#looks % LOOKS_PER_FULL_LOOK !== 0 || (await this.#hasElements()))
    if (isRight) return
    if (this.#learnt !== undefined)
      this.#context.log.warn(
        { table: this.#table.name },
        'the rules that verify sources were changed; put back',
      )
    await this.#make(membershipOf(this.#rules, this.#senders))
  }

  /** By their number: who takes one away seldom puts another there. */
  async #hasElements(): Promise<boolean> {
    for (const [name, wanted] of this.#members.elements) {
      const there = await listSet(this.#table, name)
      if (there.length !== wanted.size) return false
    }
    return true
  }

  /** What was dropped, and who sent it, for the status; undefined where nothing can be. */
  async describe(): Promise<Record<string, unknown> | undefined> {
    if (this.#failure !== undefined) return undefined
    try {
      return await this.#read()
    } catch {
      // The next look finds out why; the rest of the status is worth having.
      return undefined
    }
  }

  async #read(): Promise<Record<string, unknown>> {
    const counters = await listCounters(this.#table)
    const drops = Object.fromEntries(
      Array.from(counters, ([name, { packets }]) => [name, packets] as const).filter(
        ([, packets]) => packets > 0,
      ),
    )
    const offenders = await Promise.all(
      BLAMED.filter(reason => (drops[reason] ?? 0) > 0).flatMap(reason =>
        this.#rules.families.map(async ({ encapsulation: { family } }) => {
          const elements = await listSet(this.#table, `${reason}${family}`)
          return elements.flatMap(element => readOffender(reason, element))
        }),
      ),
    )
    return { drops, offenders: offenders.flat() }
  }
}

function toSender(remote: Remote): Sender {
  const addresses = FAMILIES.flatMap((family): Address[] => {
    const address = publicAddress(remote, family)
    return address === undefined ? [] : [address]
  })
  return {
    addresses: [...addresses, ...(remote.holder.sourceIps ?? [])],
    subnets: prefixesOf(remote.subnet),
  }
}

const offenderSchema = z.object({
  elem: z.object({
    val: z.object({ concat: z.tuple([z.string(), z.union([z.number(), z.string()])]) }),
    counter: z.object({ packets: z.number() }),
  }),
})

function readOffender(reason: string, element: unknown): Record<string, unknown>[] {
  const { data } = offenderSchema.safeParse(element)
  if (data === undefined) return []
  const { val, counter } = data.elem
  const [outer, inner] = val.concat
  return [{ reason, outer, inner: readInner(outer, inner), count: counter.packets }]
}

/** null for a number that JSON has spoilt: an IPv6 address below 2^64 may be negative or inexact. */
function readInner(outer: string, inner: number | string): string | null {
  if (typeof inner === 'number' && (!Number.isSafeInteger(inner) || inner < 0))
    return null
  try {
    const { family } = parseAddress(outer)
    return formatAddress({ family, value: BigInt(inner) })
  } catch {
    return null
  }
}
