import type { Logger } from 'pino'
import {
  type IptablesFamily,
  restoreTable,
  saveTable,
  supportsRandomFully,
} from '../linux/iptables.js'
import type { Clock } from '../subnet/clock.js'
import type { Family } from '../subnet/prefix.js'
import { BackendError } from './errors.js'
import {
  type FirewallFamily,
  type OwnChain,
  forwardChain,
  isInForce,
  isPresent,
  masqueradeChain,
  removePayload,
  restorePayload,
} from './firewall-rules.js'

const PROGRAM: Readonly<Record<Family, IptablesFamily>> = {
  4: 'iptables',
  6: 'ip6tables',
}

export interface FirewallOptions {
  readonly families: readonly FirewallFamily[]
  readonly forward: boolean
  readonly masquerade: boolean
  /** --ip-masq-fully-random-disable clears this. */
  readonly randomFully: boolean
}

type WantedChain = OwnChain & { readonly program: IptablesFamily }

/** Our rules, kept as they should be among the rules of everybody else. */
export class Firewall {
  readonly #wanted: readonly WantedChain[]

  private constructor(wanted: readonly WantedChain[]) {
    this.#wanted = wanted
  }

  static async open(options: FirewallOptions): Promise<Firewall> {
    const { families, forward, masquerade } = options
    const wanted = await guard(() =>
      Promise.all(
        families.map(async family => {
          const program = PROGRAM[family.network.family]
          const random =
            masquerade && options.randomFully && (await supportsRandomFully(program))
          const chains = [
            ...(forward ? [forwardChain(family)] : []),
            ...(masquerade ? [masqueradeChain(family, random)] : []),
          ]
          return chains.map(chain => ({ ...chain, program }))
        }),
      ),
    )
    return new Firewall(wanted.flat())
  }

  /** Reads each table once and writes it only when something is wrong. Returns the chains that were. */
  async ensure(): Promise<string[]> {
    return await guard(async () => {
      const repaired: string[] = []
      for (const own of this.#wanted) {
        const saved = await saveTable(own.program, own.table)
        if (isInForce(saved, own)) continue
        await restoreTable(own.program, restorePayload(saved, own))
        repaired.push(own.chain)
      }
      return repaired
    })
  }

  /** Which chains have rules of ours. */
  async present(): Promise<string[]> {
    return await guard(async () => {
      const found: string[] = []
      for (const own of this.#wanted)
        if (isPresent(await saveTable(own.program, own.table), own))
          found.push(`${own.program} ${own.table} ${own.chain}`)
      return found
    })
  }

  /** Takes our rules away. */
  async remove(): Promise<void> {
    await guard(async () => {
      for (const own of this.#wanted) {
        const payload = removePayload(await saveTable(own.program, own.table), own)
        if (payload !== undefined) await restoreTable(own.program, payload)
      }
    })
  }

  /** Checks again and again until `signal` aborts; says when it repaired something or cannot. */
  async run(
    options: {
      readonly intervalMs: number
      readonly clock: Clock
      readonly log: Logger
      readonly onTrouble: (trouble: string | undefined) => void
    },
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, log, intervalMs, onTrouble } = options
    let failing = false
    await clock.sleep(intervalMs, signal)
    while (!signal.aborted) {
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
      await clock.sleep(intervalMs, signal)
    }
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
