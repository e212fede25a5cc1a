import type { Logger } from 'pino'
import {
  type IptablesFamily,
  type IptablesVariant,
  chooseVariant,
  restoreTable,
  saveTable,
  supportsRandomFully,
  variantsInUse,
} from '../linux/iptables.js'
import { listTable, runNft } from '../linux/nft.js'
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

export const REMOVED = 'rules of ours in another place removed'

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

/** Where the program or the kernel's part may not be there, or not work: then nothing of ours is there. */
class OptionalPart implements Part {
  readonly name: string
  readonly #part: Part

  constructor(part: Part) {
    this.name = part.name
    this.#part = part
  }

  ensure(): Promise<boolean> {
    return this.#part.ensure().catch(() => false)
  }

  isPresent(): Promise<boolean> {
    return this.#part.isPresent().catch(() => false)
  }

  async remove(): Promise<void> {
    if (await this.isPresent()) await this.#part.remove()
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
    const chosen = await Promise.all(families.map(each => partsOf(each, this.#options)))
    // One that stays goes on with what it has learnt.
    const before = new Map(this.#parts?.wanted.map(part => [part.name, part]))
    const wanted = chosen.flat().map(part => before.get(part.name) ?? part)
    const names = new Set(wanted.map(({ name }) => name))
    const all = await allParts(families)
    return { wanted, unwanted: all.filter(({ name }) => !names.has(name)) }
  }

  /** Takes away what another mode, or the other kind of iptables, has left. Returns what that was. */
  async removeOthers(): Promise<string[]> {
    return await guard(async () => {
      const removed: string[] = []
      for (const part of this.#parts?.unwanted ?? [])
        if (await part.isPresent()) {
          await part.remove()
          removed.push(part.name)
        }
      return removed
    })
  }

  /** What no rule of ours can mend, and how it is mended; undefined when there is nothing. */
  async #describeRefusals(): Promise<string | undefined> {
    const addresses: string[] = []
    for (const { subnet } of this.#options.families) {
      const program = PROGRAM[subnet.family]
      const variant = await chooseVariant(program)
      const saved = await saveTable(program, 'raw', variant).catch(() => '')
      addresses.push(
        ...directAccessDrops(saved).filter(text =>
          containsAddress(subnet, parseAddress(text)),
        ),
      )
    }
    if (addresses.length === 0) return undefined
    const [first = ''] = addresses
    const more = addresses.length > 1 ? ` and ${addresses.length - 1} more` : ''
    return `Docker refuses packets from other hosts to ${first}${more} (iptables -t raw -S PREROUTING); set "allow-direct-routing": true in /etc/docker/daemon.json, or the network's option com.docker.network.bridge.trusted_host_interfaces to the overlay's device`
  }

  /** Checks again and again until `signal` aborts; says when it repaired something or cannot. */
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
    const { clock, log, intervalMs, onTrouble, onNote } = options
    let failing = false
    await clock.sleep(intervalMs, signal)
    while (!signal.aborted) {
      try {
        // With the look after each choice.
        const isDockerLook = this.#looks % LOOKS_PER_CHOICE === 1
        const repaired = await this.ensure()
        if (repaired.length > 0)
          log.warn({ chains: repaired }, 'firewall rules were changed; put back')
        failing = false
        onTrouble(undefined)
        if (isDockerLook) {
          const removed = await this.removeOthers()
          if (removed.length > 0) log.info({ rules: removed }, REMOVED)
          onNote(await guard(() => this.#describeRefusals()))
        }
      } catch (error) {
        if (!(error instanceof BackendError)) throw error
        if (!failing)
          log.error({ reason: error.message }, 'cannot check the firewall rules')
        failing = true
        onTrouble(error.message)
      }
      await clock.sleep(intervalMs, signal)
    }
  }
}

interface Parts {
  readonly wanted: readonly Part[]
  /** What another mode or kind may have left. */
  readonly unwanted: readonly Part[]
}

/** The rules of one family. */
async function partsOf(
  family: FirewallFamily,
  options: FirewallOptions,
): Promise<Part[]> {
  const { forward, masquerade, randomFully, isNft } = options
  const program = PROGRAM[family.network.family]
  const variant = await chooseVariant(program)
  if (isNft)
    return [
      ...(forward ? [new NftPart(nftForwardChain(family))] : []),
      ...(masquerade ? [new NftPart(nftMasqueradeChain(family, randomFully))] : []),
      // An accept of nftables does not outweigh a drop of iptables.
      ...(forward
        ? [
            new OptionalPart(
              new IptablesPart(program, variant, forwardChain(family), isForwardDenied),
            ),
          ]
        : []),
    ]
  const random = masquerade && randomFully && (await supportsRandomFully(program))
  return [
    ...(forward ? [new IptablesPart(program, variant, forwardChain(family))] : []),
    ...(masquerade
      ? [new IptablesPart(program, variant, masqueradeChain(family, random))]
      : []),
  ]
}

/** Whatever may be ours, in either mode and each kind of iptables that the system has. */
async function allParts(families: readonly FirewallFamily[]): Promise<Part[]> {
  const parts = families.map(async family => {
    const program = PROGRAM[family.network.family]
    const variants = await variantsInUse(program)
    return [
      ...variants.flatMap(variant =>
        [forwardChain(family), masqueradeChain(family, false)].map(
          chain => new IptablesPart(program, variant, chain),
        ),
      ),
      new NftPart(nftForwardChain(family)),
      new NftPart(nftMasqueradeChain(family, false)),
    ].map(part => new OptionalPart(part))
  })
  return (await Promise.all(parts)).flat()
}

/** Which rules of ours are there, whatever made them. */
export async function findRules(families: readonly FirewallFamily[]): Promise<string[]> {
  return await guard(async () => {
    const found: string[] = []
    for (const part of await allParts(families))
      if (await part.isPresent()) found.push(part.name)
    return found
  })
}

/** Takes them away. Throws BackendError. */
export async function removeRules(families: readonly FirewallFamily[]): Promise<void> {
  await guard(async () => {
    for (const part of await allParts(families)) await part.remove()
  })
}

async function guard<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    if (cause instanceof BackendError) throw cause
    throw new BackendError('ERR_FIREWALL', (cause as Error).message, { cause })
  }
}
