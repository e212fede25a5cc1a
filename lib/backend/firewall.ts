import type { Logger } from 'pino'
import {
  type IptablesFamily,
  type IptablesVariant,
  chooseVariant,
  restoreTable,
  saveTable,
  supportsRandomFully,
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
  type NftChains,
  isAnyPresent,
  linesToEnsure,
  linesToRelease,
  nftChains,
  printedRules,
} from './nft-firewall-rules.js'

const PROGRAM: Readonly<Record<Family, IptablesFamily>> = {
  4: 'iptables',
  6: 'ip6tables',
}

/** Docker's refusals are looked for at the first look, and then at each of so many. */
const LOOKS_PER_DOCKER_LOOK = 12

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

/** For hosts that may have no iptables: then there are no rules of iptables either. */
class OptionalPart implements Part {
  readonly name: string
  readonly #part: Part

  constructor(part: Part) {
    this.name = part.name
    this.#part = part
  }

  ensure(): Promise<boolean> {
    return ifInstalled(() => this.#part.ensure(), false)
  }

  isPresent(): Promise<boolean> {
    return ifInstalled(() => this.#part.isPresent(), false)
  }

  remove(): Promise<void> {
    return ifInstalled(() => this.#part.remove(), undefined)
  }
}

async function ifInstalled<T>(act: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await act()
  } catch (error) {
    if ((error as Error).message.includes('not installed')) return otherwise
    throw error
  }
}

class NftPart implements Part {
  readonly name: string
  readonly #own: NftChains
  /** How nft(8) prints our rules when they are right. */
  #learnt: string | undefined

  constructor(own: NftChains) {
    this.name = `nft ${own.table.family} ${own.table.name}`
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
  readonly #families: readonly FirewallFamily[]
  readonly #wanted: readonly Part[]
  /** Of the other mode, from before it was changed. */
  readonly #unwanted: readonly Part[]
  #looks = 0

  private constructor(
    families: readonly FirewallFamily[],
    wanted: readonly Part[],
    unwanted: readonly Part[],
  ) {
    this.#families = families
    this.#wanted = wanted
    this.#unwanted = unwanted
  }

  static async open(options: FirewallOptions): Promise<Firewall> {
    const { families } = options
    const parts = await guard(() =>
      Promise.all(families.map(family => partsOf(family, options))),
    )
    return new Firewall(
      families,
      parts.flatMap(({ wanted }) => wanted),
      parts.flatMap(({ unwanted }) => unwanted),
    )
  }

  /** Returns what was not as it should be. */
  async ensure(): Promise<string[]> {
    return await guard(async () => {
      const repaired: string[] = []
      for (const part of this.#wanted) if (await part.ensure()) repaired.push(part.name)
      return repaired
    })
  }

  /** Takes away what the other mode has left. Returns what that was. */
  async removeOtherMode(): Promise<string[]> {
    return await guard(async () => {
      const removed: string[] = []
      for (const part of this.#unwanted)
        if (await part.isPresent()) {
          await part.remove()
          removed.push(part.name)
        }
      return removed
    })
  }

  /** Which rules of ours are there, of either mode. */
  async present(): Promise<string[]> {
    return await guard(async () => {
      const found: string[] = []
      for (const part of [...this.#wanted, ...this.#unwanted])
        if (await part.isPresent()) found.push(part.name)
      return found
    })
  }

  /** Takes our rules away, of either mode. */
  async remove(): Promise<void> {
    await guard(async () => {
      for (const part of [...this.#wanted, ...this.#unwanted]) await part.remove()
    })
  }

  /** What no rule of ours can mend, and how it is mended; undefined when there is nothing. */
  async describeRefusals(): Promise<string | undefined> {
    const addresses: string[] = []
    for (const { subnet } of this.#families) {
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
        const repaired = await this.ensure()
        if (repaired.length > 0)
          log.warn({ chains: repaired }, 'firewall rules were changed; put back')
        failing = false
        onTrouble(undefined)
        if (this.#looks % LOOKS_PER_DOCKER_LOOK === 0)
          onNote(await this.describeRefusals())
        this.#looks += 1
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

/** Of one family: the rules of this mode, and those that the other may have left. */
async function partsOf(
  family: FirewallFamily,
  options: FirewallOptions,
): Promise<{ readonly wanted: readonly Part[]; readonly unwanted: readonly Part[] }> {
  const { forward, masquerade, randomFully, isNft } = options
  const program = PROGRAM[family.network.family]
  const variant = await chooseVariant(program)
  const iptables = (
    chain: OwnChain,
    isNeeded?: (saved: string) => boolean,
  ): IptablesPart => new IptablesPart(program, variant, chain, isNeeded)
  if (isNft)
    return {
      wanted: [
        new NftPart(nftChains(family, options)),
        // An accept of nftables does not outweigh a drop of iptables.
        ...(forward
          ? [new OptionalPart(iptables(forwardChain(family), isForwardDenied))]
          : []),
      ],
      unwanted: [new OptionalPart(iptables(masqueradeChain(family, randomFully)))],
    }
  const random = masquerade && randomFully && (await supportsRandomFully(program))
  const all = { forward: true, masquerade: true, randomFully }
  return {
    wanted: [
      ...(forward ? [iptables(forwardChain(family))] : []),
      ...(masquerade ? [iptables(masqueradeChain(family, random))] : []),
    ],
    unwanted: [new OptionalPart(new NftPart(nftChains(family, all)))],
  }
}

async function guard<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    if (cause instanceof BackendError) throw cause
    throw new BackendError('ERR_FIREWALL', (cause as Error).message, { cause })
  }
}
