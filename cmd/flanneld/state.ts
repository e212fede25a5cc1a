import type { Health } from './status-server.js'

/** How far the daemon has come, for the status and the health page. */
export type Phase = 'starting' | 'waiting' | 'ready' | 'stopping'

type Section = () => unknown

const ETCD_AWAY = 'etcd does not answer; going on with the last known leases'

/** A text, or what to ask for one whenever somebody looks. */
type Said = string | (() => string | undefined)

/** What the daemon knows of itself. Written by the daemon's parts, read by its servers. */
export class DaemonState implements Health {
  phase: Phase = 'starting'
  etcdReachable = false
  /** Keys in etcd that this host cannot use, each with the reason. */
  ignoredRecords: readonly { readonly key: string; readonly why: string }[] = []
  #waitingFor = ''
  readonly #troubles = new Map<string, Said>()
  readonly #notes = new Map<string, Said>()
  readonly #sections = new Map<string, Section>()

  /** @param reason what is waited for, in the operator's words. */
  wait(reason: string): void {
    this.phase = 'waiting'
    this.#waitingFor = reason
  }

  /** Sets or clears what keeps a part from working. */
  report(part: string, trouble: Said | undefined): void {
    put(this.#troubles, part, trouble)
  }

  /** Sets or clears what an operator should know although packets flow. */
  note(part: string, text: Said | undefined): void {
    put(this.#notes, part, text)
  }

  /** What this host has and whom it reaches, in a few words; asked whenever somebody looks. */
  headline: () => string = () => ''

  /** Adds a section to the status; `read` is asked whenever somebody looks. */
  publish(name: string, read: Section): void {
    this.#sections.set(name, read)
  }

  /** Takes back every section: what they tell of is over. */
  unpublish(): void {
    this.#sections.clear()
  }

  trouble(): string | undefined {
    if (this.phase === 'waiting') return this.#waitingFor
    if (this.phase !== 'ready') return this.phase
    const [first] = Object.entries(textsOf(this.#troubles))
    return first?.join(': ')
  }

  notes(): string[] {
    const said = Object.entries(textsOf(this.#notes)).map(entry => entry.join(': '))
    const isAway = this.phase === 'ready' && !this.etcdReachable
    return isAway ? [ETCD_AWAY, ...said] : said
  }

  /** All that fits into one line: how it goes, and what is wrong first. */
  oneLine(): string {
    const trouble = this.trouble()
    if (this.phase === 'waiting') return `waiting: ${trouble ?? ''}`
    if (this.phase !== 'ready') return this.phase
    const [note] = this.notes()
    const said = trouble ?? note
    return said === undefined ? this.headline() : `${this.headline()}; ${said}`
  }

  async toJson(): Promise<Record<string, unknown>> {
    const sections = await Promise.all(
      Array.from(
        this.#sections,
        async ([name, read]) => [name, await readSection(read)] as const,
      ),
    )
    return {
      pid: process.pid,
      phase: this.phase,
      ...(this.phase === 'waiting' && { waitingFor: this.#waitingFor }),
      etcdReachable: this.etcdReachable,
      troubles: textsOf(this.#troubles),
      notes: textsOf(this.#notes),
      ignoredRecords: this.ignoredRecords,
      ...Object.fromEntries(sections),
    }
  }
}

function put(map: Map<string, Said>, part: string, said: Said | undefined): void {
  if (said === undefined) map.delete(part)
  else map.set(part, said)
}

/** What is said at the moment. */
function textsOf(map: ReadonlyMap<string, Said>): Record<string, string> {
  return Object.fromEntries(
    Array.from(map, ([part, said]) => {
      const text = typeof said === 'string' ? said : said()
      return [part, text] as const
    }).filter((entry): entry is [string, string] => entry[1] !== undefined),
  )
}

/** One part that cannot answer must not hide the others. */
async function readSection(read: Section): Promise<unknown> {
  try {
    return await read()
  } catch (error) {
    return { error: String(error) }
  }
}
