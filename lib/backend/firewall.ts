import type { Logger } from 'pino'
import {
  type IptablesFamily,
  type IptablesVariant,
  readKinds,
  restoreTable,
  saveTable,
  supportsRandomFully,
} from '../linux/iptables.js'
import { listTable, runNft } from '../linux/nft.js'
import { isNotThere } from '../linux/run.js'
import type { Clock } from '../subnet/clock.js'
import { type Family, containsAddress, parseAddress } from '../subnet/prefix.js'
import { BackendError } from './errors.js'
import {
  type FirewallFamily,
  type OwnChain,
  directAccessDrops,
  forwardChain,
  isForwardDenied,
  isInForce,
  isPresent,
  masqueradeChain,
  removePayload,
  restorePayload,
} from './firewall-rules.js'
import {
  type OwnNftChain,
  isAnyPresent,
  linesToEnsure,
  linesToRelease,
  nftForwardChain,
  nftMasqueradeChain,
  printedRules,
} from './nft-firewall-rules.js'

const PROGRAM: Readonly<Record<Family, IptablesFamily>> = {
  4: 'iptables',
  6: 'ip6tables',
}

/** What Docker does is looked at with the first look, and then with each of so many. */
const LOOKS_PER_CHOICE = 12

export interface FirewallOptions {
  readonly families: readonly FirewallFamily[]
  readonly forward: boolean
  readonly masquerade: boolean
  /** --ip-masq-fully-random-disable clears this. */
  readonly randomFully: boolean
  /** EnableNFTables. */
  readonly isNft: boolean
}

/** Rules of ours that go together. */
interface Part {
  readonly name: string
  /** Puts them in force. Returns whether they were not. */
  ensure(): Promise<boolean>
  isPresent(): Promise<boolean>
  remove(): Promise<void>
}

class IptablesPart implements Part {
  readonly name: string
  readonly #program: IptablesFamily
  readonly #variant: IptablesVariant
  readonly #own: OwnChain
  readonly #isNeeded: (saved: string) => boolean

  constructor(
    program: IptablesFamily,
    variant: IptablesVariant,
    own: OwnChain,
    isNeeded: (saved: string) => boolean = () => true,
  ) {
    this.name = `${program}${variant} ${own.table} ${own.chain}`
    this.#program = program
    this.#variant = variant
    this.#own = own
    this.#isNeeded = isNeeded
  }

  async #save(): Promise<string> {
    return await saveTable(this.#program, this.#own.table, this.#variant)
  }

  async #restore(payload: string): Promise<void> {
    await restoreTable(this.#program, payload, this.#variant)
  }

  /** Reads the table once and writes it only when something is wrong. */
  async ensure(): Promise<boolean> {
    const saved = await this.#save()
    const isRight = this.#isNeeded(saved)
      ? isInForce(saved, this.#own)
      : !isPresent(saved, this.#own)
    if (isRight) return false
    if (this.#isNeeded(saved)) await this.#restore(restorePayload(saved, this.#own))
    else await this.remove()
    return true
  }

  async isPresent(): Promise<boolean> {
    return isPresent(await this.#save(), this.#own)
  }

  async remove(): Promise<void> {
    const payload = removePayload(await this.#save(), this.#own)
    if (payload !== undefined) await this.#restore(payload)
  }
}

/** Of a program that may not be there: then there are no rules of ours either. */
class OptionalPart implements Part {
  readonly name: string
  readonly #part: Part

  constructor(part: Part) {
    this.name = part.name
    this.#part = part
  }

  ensure(): Promise<boolean> {
    return ifThere(() => this.#part.ensure(), false)
  }

  isPresent(): Promise<boolean> {
    return ifThere(() => this.#part.isPresent(), false)
  }

  remove(): Promise<void> {
    return ifThere(() => this.#part.remove(), undefined)
  }
}

async function ifThere<T>(act: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await act()
  } catch (error) {
    if (isNotThere(error)) return otherwise
    throw error
  }
}

class NftPart implements Part {
  readonly name: string
  readonly #own: OwnNftChain
  /** How nft(8) prints our rules when they are right. */
  #learnt: string | undefined

  constructor(own: OwnNftChain) {
    const { table, chain } = own
    this.name = `nft ${table.family} ${table.name} ${chain.name}`
    this.#own = own
  }

  async ensure(): Promise<boolean> {
    const listed = (await listTable(this.#own.table)) ?? ''
    if (this.#learnt !== undefined && printedRules(listed, this.#own) === this.#learnt)
      return false
    await runNft(linesToEnsure(listed, this.#own))
    const printed = (await listTable(this.#own.table)) ?? ''
    this.#learnt = printedRules(printed, this.#own)
    return true
  }

  async isPresent(): Promise<boolean> {
    const listed = await listTable(this.#own.table)
    return listed !== undefined && isAnyPresent(listed, this.#own)
  }

  async remove(): Promise<void> {
    const listed = await listTable(this.#own.table)
    if (listed !== undefined && isAnyPresent(listed, this.#own))
      await runNft(linesToRelease(listed, this.#own))
  }
}

/** Our rules, kept as they should be among the rules of everybody else. */
export class Firewall {
  readonly #options: FirewallOptions
  #parts: Parts | undefined
  #looks = 0
  /** Why others could not be looked at, as it was said last. */
  #said: string | undefined

  constructor(options: FirewallOptions) {
    this.#options = options
  }

  /** Returns what was not as it should be. Throws BackendError. */
  async ensure(): Promise<string[]> {
    return await guard(async () => {
      // Docker may have come since, or changed to the other kind of iptables.
      if (this.#looks % LOOKS_PER_CHOICE === 0) this.#parts = await this.#choose()
      this.#looks += 1
      const repaired: string[] = []
      for (const part of this.#parts?.wanted ?? [])
        if (await part.ensure()) repaired.push(part.name)
      return repaired
    })
  }

  async #choose(): Promise<Parts> {
    const { families } = this.#options
    const kinds = await Promise.all(families.map(each => readKinds(programOf(each))))
    const chosen = await Promise.all(
      families.map((each, index) => partsOf(each, this.#options, kinds[index]?.chosen)),
    )
    // One that stays goes on with what it has learnt.
    const before = new Map(this.#parts?.wanted.map(part => [part.name, part]))
    const wanted = chosen.flat().map(part => before.get(part.name) ?? part)
    const names = new Set(wanted.map(({ name }) => name))
    const all = families.flatMap((each, index) => allParts(each, kinds[index]?.inUse))
    return {
      wanted,
      unwanted: all.filter(({ name }) => !names.has(name)),
      kinds: kinds.map(({ chosen: kind }) => kind),
    }
  }

  /** Takes away what another mode, or the other kind of iptables, has left. Returns what that was. */
  async removeOthers(): Promise<string[]> {
    return await guard(() => removePresent(this.#parts?.unwanted ?? []))
  }

  /** What no rule of ours can mend, and how it is mended; undefined when there is nothing. */
  async #describeRefusals(): Promise<string | undefined> {
    const { families } = this.#options
    const texts = families.map(async (family, index) => {
      const kind = this.#parts?.kinds[index]
      const saved = await saveTable(programOf(family), 'raw', kind).catch(() => '')
      return directAccessDrops(saved).filter(text =>
        containsAddress(family.subnet, parseAddress(text)),
      )
    })
    const addresses = (await Promise.all(texts)).flat()
    const [first] = addresses
    if (first === undefined) return undefined
    const more = addresses.length > 1 ? ` and ${addresses.length - 1} more` : ''
    return `Docker refuses packets from other hosts to ${first}${more} (iptables -t raw -S PREROUTING); set "allow-direct-routing": true in /etc/docker/daemon.json, or the network's option com.docker.network.bridge.trusted_host_interfaces to the overlay's device`
  }

  /**
   * Checks again and again until `signal` aborts; says when it repaired something
   * or cannot. After each choice it also looks at what is not its own to repair.
   */
  async run(
    options: {
      readonly intervalMs: number
      readonly clock: Clock
      readonly log: Logger
      readonly onTrouble: (trouble: string | undefined) => void
      readonly onNote: (note: string | undefined) => void
    },
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, log, intervalMs, onTrouble } = options
    let failing = false
    for (;;) {
      if (this.#looks % LOOKS_PER_CHOICE === 1) await this.#lookAround(options)
      await clock.sleep(intervalMs, signal)
      if (signal.aborted) return
      try {
        const repaired = await this.ensure()
        if (repaired.length > 0)
          log.warn({ chains: repaired }, 'firewall rules were changed; put back')
        failing = false
        onTrouble(undefined)
      } catch (error) {
        if (!(error instanceof BackendError)) throw error
        if (!failing)
          log.error({ reason: error.message }, 'cannot check the firewall rules')
        failing = true
        onTrouble(error.message)
      }
    }
  }

  /** What goes wrong here keeps no packet from its way, and is tried again. */
  async #lookAround({
    log,
    onNote,
  }: Pick<Parameters<Firewall['run']>[0], 'log' | 'onNote'>): Promise<void> {
    try {
      const rules = await this.removeOthers()
      if (rules.length > 0) log.info({ rules }, 'rules of ours in another place removed')
      onNote(await this.#describeRefusals())
      this.#said = undefined
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      if (this.#said === error.message) return
      this.#said = error.message
      log.warn({ reason: error.message }, 'rules of ours may be left in another place')
    }
  }
}

interface Parts {
  readonly wanted: readonly Part[]
  /** What another mode or kind may have left. */
  readonly unwanted: readonly Part[]
  /** Of iptables, for each family. */
  readonly kinds: readonly IptablesVariant[]
}

function programOf({ network }: FirewallFamily): IptablesFamily {
  return PROGRAM[network.family]
}

/** The rules of one family. */
async function partsOf(
  family: FirewallFamily,
  { forward, masquerade, randomFully, isNft }: FirewallOptions,
  kind: IptablesVariant = '',
): Promise<Part[]> {
  const program = programOf(family)
  if (isNft)
    return [
      ...(forward ? [new NftPart(nftForwardChain(family))] : []),
      ...(masquerade ? [new NftPart(nftMasqueradeChain(family, randomFully))] : []),
      // An accept of nftables does not outweigh a drop of iptables.
      ...(forward
        ? [
            new OptionalPart(
              new IptablesPart(program, kind, forwardChain(family), isForwardDenied),
            ),
          ]
        : []),
    ]
  const random = masquerade && randomFully && (await supportsRandomFully(program))
  return [
    ...(forward ? [new IptablesPart(program, kind, forwardChain(family))] : []),
    ...(masquerade
      ? [new IptablesPart(program, kind, masqueradeChain(family, random))]
      : []),
  ]
}

/** Whatever may be ours, in either mode and each kind of iptables that the system has. */
function allParts(
  family: FirewallFamily,
  kinds: readonly IptablesVariant[] = [],
): OptionalPart[] {
  const chains = [forwardChain(family), masqueradeChain(family, false)]
  return [
    ...kinds.flatMap(kind =>
      chains.map(chain => new IptablesPart(programOf(family), kind, chain)),
    ),
    new NftPart(nftForwardChain(family)),
    new NftPart(nftMasqueradeChain(family, false)),
  ].map(part => new OptionalPart(part))
}

async function everyPart(families: readonly FirewallFamily[]): Promise<OptionalPart[]> {
  const parts = families.map(async family => {
    const { inUse } = await readKinds(programOf(family))
    return allParts(family, inUse)
  })
  return (await Promise.all(parts)).flat()
}

/** Which rules of ours are there, whatever made them. Throws BackendError. */
export async function findRules(families: readonly FirewallFamily[]): Promise<string[]> {
  return await guard(async () => {
    const found: string[] = []
    for (const part of await everyPart(families))
      if (await part.isPresent()) found.push(part.name)
    return found
  })
}

/** Takes them away. Throws BackendError. */
export async function removeRules(families: readonly FirewallFamily[]): Promise<void> {
  await guard(async () => await removePresent(await everyPart(families)))
}

async function removePresent(parts: readonly Part[]): Promise<string[]> {
  const removed: string[] = []
  for (const part of parts)
    if (await part.isPresent()) {
      await part.remove()
      removed.push(part.name)
    }
  return removed
}

async function guard<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    if (cause instanceof BackendError) throw cause
    throw new BackendError('ERR_FIREWALL', (cause as Error).message, { cause })
  }
}
