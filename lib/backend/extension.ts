import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { CommandError, run } from '../linux/run.js'
import { splitWords } from '../linux/words.js'
import { untilAborted } from '../subnet/loops.js'
import { type NetworkConfig, option } from '../subnet/network-config.js'
import {
  type Address,
  type Family,
  formatAddress,
  formatPrefix,
} from '../subnet/prefix.js'
import { Slots } from '../subnet/slots.js'
import { type Subnet, formatSubnet, subnetPrefix } from '../subnet/subnet-key.js'
import {
  type Backend,
  type BackendContext,
  type BackendPlan,
  type Remote,
  UNKNOWN_REACH,
  publicAddress,
} from './backend.js'
import { BackendError } from './errors.js'
import { endLeft } from './left.js'

/** Of one command. */
const TIMEOUT_MS = 60_000
const MOST_OUTPUT = 64 << 10

/** Commands of remotes that run at the same time: one that hangs holds up no others. */
const AT_ONCE = 16

/** So long a stop waits for commands that remove. */
const LAST_CALL_MS = 10_000

/** So long a list waits for its commands. */
const PATIENCE_MS = 2000

/** flannel's names. */
const COMMANDS = [
  'PreStartupCommand',
  'PostStartupCommand',
  'SubnetAddCommand',
  'SubnetRemoveCommand',
] as const

type Commands = Readonly<Record<(typeof COMMANDS)[number], string>>
type Variables = Readonly<Record<string, string>>

/** Throws BackendError. */
export function checkExtension({ backend: { options } }: NetworkConfig): Commands {
  const read = (name: (typeof COMMANDS)[number]): string => {
    const value = option(options, name) ?? ''
    try {
      if (typeof value !== 'string') throw new SyntaxError('it must be a text')
      splitWords(value, {})
      return value
    } catch (cause) {
      const message = `Backend.${name}: ${(cause as Error).message}`
      throw new BackendError('ERR_BACKEND_OPTION', message, { cause })
    }
  }
  return Object.fromEntries(COMMANDS.map(name => [name, read(name)])) as Commands
}

/** How packets travel is a matter of commands of the operator's. */
export function planExtension(context: BackendContext): BackendPlan {
  const { config, underlay } = context
  const commands = checkExtension(config)
  return {
    leaseType: 'extension',
    overlayMtu: underlay.mtu,
    leaseData: async () => {
      const output = await runAtStart('PreStartupCommand', commands, {})
      return output === undefined ? {} : { backendData: output.trim() }
    },
    endLeft: () => endLeft(context),
    start: async subnet => {
      await endLeft(context)
      await runAtStart('PostStartupCommand', commands, hostVariables(context, subnet))
      return new ExtensionBackend(context, commands, await readTold(context))
    },
  }
}

function hostVariables(
  { config, underlay: { publicAddresses } }: BackendContext,
  subnet: Subnet,
): Variables {
  const network = config.families.find(each => each.network.family === 4)
  return {
    ...(network && { NETWORK: formatPrefix(network.network) }),
    ...variablesOf(subnet, family => publicAddresses[family]),
  }
}

/** What of a host is known, by flannel's names. */
function variablesOf(
  subnet: Subnet,
  addressOf: (family: Family) => Address | undefined,
): Variables {
  const [v4, v6] = [subnetPrefix(subnet, 4), subnetPrefix(subnet, 6)]
  const [address4, address6] = [addressOf(4), addressOf(6)]
  return {
    ...(v4 && { SUBNET: formatPrefix(v4) }),
    ...(v6 && { IPV6SUBNET: formatPrefix(v6) }),
    ...(address4 && { PUBLIC_IP: formatAddress(address4) }),
    ...(address6 && { PUBLIC_IPV6: formatAddress(address6) }),
  }
}

/** Undefined without such a command. Throws BackendError. */
async function runAtStart(
  name: (typeof COMMANDS)[number],
  commands: Commands,
  variables: Variables,
): Promise<string | undefined> {
  try {
    return await runCommand(commands[name], variables, '')
  } catch (cause) {
    if (!(cause instanceof CommandError)) throw cause
    throw new BackendError('ERR_COMMAND', `Backend.${name}: ${cause.message}`, { cause })
  }
}

/** Without a shell: what a record of another host says is never more than a word. */
async function runCommand(
  command: string,
  variables: Variables,
  input: string,
  signal?: AbortSignal,
): Promise<string | undefined> {
  const [program, ...args] = splitWords(command, variables)
  if (program === undefined) return undefined
  return await run(program, args, {
    input,
    environment: variables,
    timeoutMs: TIMEOUT_MS,
    maxOutput: MOST_OUTPUT,
    isCombined: true,
    ...(signal && { signal }),
  })
}

const toldSchema = z.object({
  variables: z.record(z.string(), z.string()),
  /** Of the other host's making, so it comes by standard input alone. */
  input: z.string(),
})

/** What the commands are told of a remote. */
type Told = z.infer<typeof toldSchema>

interface Entry {
  readonly told: Told
  /** To compare by; '' for what an earlier run has told, and until the command has ended well. */
  readonly text: string
}

/** Until the machine restarts, what was told is so. */
function toldFile({ runDir }: BackendContext): string {
  return join(runDir, 'extension-told.json')
}

/** What an earlier run has told of, by subnet. */
async function readTold(context: BackendContext): Promise<ReadonlyMap<string, Told>> {
  try {
    const text = await readFile(toldFile(context), 'utf8')
    return new Map(
      Object.entries(z.record(z.string(), toldSchema).parse(JSON.parse(text))),
    )
  } catch {
    // None, or none of ours: what is there is told of again.
    return new Map()
  }
}

function tellOf(remote: Remote): Told {
  const { backendData = '' } = remote.holder
  const data = typeof backendData === 'string' ? backendData : JSON.stringify(backendData)
  return {
    variables: variablesOf(remote.subnet, family => publicAddress(remote, family)),
    input: `${data}\n`,
  }
}

class ExtensionBackend implements Backend {
  readonly reach = UNKNOWN_REACH
  readonly device: string
  readonly note = undefined
  readonly #context: BackendContext
  readonly #commands: Commands
  /** By subnet, what the commands are to be told of. */
  #wanted: ReadonlyMap<string, Entry> = new Map()
  /** And what they have been told of. */
  readonly #told = new Map<string, Entry>()
  /** Subnets that a command is told of at the moment. */
  readonly #busy = new Map<string, Promise<void>>()
  readonly #slots = new Slots(AT_ONCE)
  /** Why the last command failed that was to tell of a subnet. */
  readonly #failed = new Map<string, string>()
  /** Since the file was written last. */
  #isChanged = false
  #isWriting = false
  #written: Promise<void> = Promise.resolve()
  /** Aborts when what adds is to end, and a while later what removes: a route to a host that is gone would stay. */
  readonly #stop = new AbortController()
  readonly #lastCall = new AbortController()

  /** @param former what an earlier run has told of: the commands hear of it again, or that it is gone. */
  constructor(
    context: BackendContext,
    commands: Commands,
    former: ReadonlyMap<string, Told>,
  ) {
    this.device = context.underlay.device
    this.#context = context
    this.#commands = commands
    for (const [subnet, told] of former) this.#told.set(subnet, { told, text: '' })
  }

  get trouble(): string | undefined {
    const [first] = this.#failed
    if (first === undefined) return undefined
    const more = this.#failed.size > 1 ? ` (and ${this.#failed.size - 1} more)` : ''
    return `${first[0]}: ${first[1]}${more}`
  }

  /**
   * One that failed is tried again with the next list, every five minutes at the
   * latest. Commands that take long go on while the next list comes.
   */
  async apply(remotes: readonly Remote[]): Promise<void> {
    this.#wanted = new Map(
      remotes.map(remote => {
        const told = tellOf(remote)
        return [formatSubnet(remote.subnet), { told, text: JSON.stringify(told) }]
      }),
    )
    for (const subnet of this.#failed.keys())
      if (!this.#wanted.has(subnet)) this.#failed.delete(subnet)
    const done = new AbortController()
    await Promise.race([
      this.#catchUp(),
      this.#context.clock.sleep(PATIENCE_MS, done.signal),
    ])
    done.abort()
  }

  /** Resolves when the commands have been told of all that is wanted, or have failed. */
  async #catchUp(): Promise<void> {
    const subnets = new Set([...this.#told.keys(), ...this.#wanted.keys()])
    await Promise.all(
      Array.from(subnets)
        .filter(subnet => !this.#isSettled(subnet))
        .map(subnet => this.#tend(subnet)),
    )
    await this.#written
  }

  #isSettled(subnet: string): boolean {
    return this.#wanted.get(subnet)?.text === this.#told.get(subnet)?.text
  }

  /** Tells of one subnet, one command after the other. */
  async #tend(subnet: string): Promise<void> {
    // Whoever is at it looks again when its command has ended.
    const busy = this.#busy.get(subnet)
    if (busy !== undefined) {
      await busy
      return
    }
    const work = this.#tellAll(subnet)
    this.#busy.set(subnet, work)
    await work
  }

  async #tellAll(subnet: string): Promise<void> {
    try {
      while (!this.#isSettled(subnet)) {
        const wanted = this.#wanted.get(subnet)
        const isTold = await this.#slots.use(() => this.#tellOnce(subnet))
        // One that has failed is another's turn, unless something else is wanted by now.
        if (!isTold && this.#wanted.get(subnet)?.text === wanted?.text) return
      }
    } finally {
      this.#busy.delete(subnet)
    }
  }

  async #tellOnce(subnet: string): Promise<boolean> {
    const [wanted, told] = [this.#wanted.get(subnet), this.#told.get(subnet)]
    const { signal } = this.#stop
    if (wanted !== undefined) {
      if (signal.aborted) return false
      // A command that is stopped half way may have done something.
      this.#remember(subnet, { told: wanted.told, text: '' })
      const isTold = await this.#tell('SubnetAddCommand', subnet, wanted.told, signal)
      if (isTold) this.#remember(subnet, wanted)
      return isTold
    }
    if (told !== undefined) {
      const last = this.#lastCall.signal
      await this.#tell('SubnetRemoveCommand', subnet, told.told, last)
      // The next run removes it.
      if (last.aborted) return false
    }
    // Failed or not: the subnet may be another's by now.
    this.#remember(subnet, undefined)
    this.#failed.delete(subnet)
    return true
  }

  /** Writes down what was told; what changes while that is written is written next. */
  #remember(subnet: string, entry: Entry | undefined): void {
    if (entry === undefined) this.#told.delete(subnet)
    else this.#told.set(subnet, entry)
    this.#isChanged = true
    if (!this.#isWriting) this.#written = this.#write()
  }

  async #write(): Promise<void> {
    const file = toldFile(this.#context)
    this.#isWriting = true
    while (this.#isChanged) {
      // What changes together is written together.
      await new Promise(resolve => setImmediate(resolve))
      this.#isChanged = false
      const told = Array.from(this.#told, ([subnet, { told }]) => [subnet, told] as const)
      try {
        await writeFile(`${file}.new`, JSON.stringify(Object.fromEntries(told)), {
          mode: 0o600,
        })
        await rename(`${file}.new`, file)
      } catch (error) {
        // Commands go on; the next run knows less.
        const reason = (error as Error).message
        this.#context.log.warn({ reason }, 'cannot write down what commands were told')
      }
    }
    this.#isWriting = false
  }

  async #tell(
    name: 'SubnetAddCommand' | 'SubnetRemoveCommand',
    subnet: string,
    { variables, input }: Told,
    signal?: AbortSignal,
  ): Promise<boolean> {
    const { log } = this.#context
    try {
      await runCommand(this.#commands[name], variables, input, signal)
      this.#failed.delete(subnet)
      return true
    } catch (error) {
      if (!(error instanceof CommandError)) throw error
      log.error({ subnet, reason: error.message }, `Backend.${name} failed`)
      this.#failed.set(subnet, `Backend.${name}: ${error.message}`)
      return false
    }
  }

  routeTo(): undefined {
    return undefined
  }

  async permit(): Promise<void> {
    // No packet passes through us.
  }

  async run(signal: AbortSignal): Promise<void> {
    await untilAborted(signal)
    this.#stop.abort()
  }

  describe(): Promise<Record<string, unknown>> {
    return Promise.resolve({
      type: 'extension',
      device: this.device,
      mtu: this.#context.underlay.mtu,
      told: this.#told.size,
    })
  }

  async close(how: 'keep' | 'end'): Promise<void> {
    const { clock } = this.#context
    const done = new AbortController()
    void clock.sleep(LAST_CALL_MS, done.signal).then(() => {
      if (!done.signal.aborted) this.#lastCall.abort()
    })
    if (how === 'end') {
      this.#wanted = new Map()
      await this.#catchUp()
    } else await Promise.all(this.#busy.values())
    await this.#written
    done.abort()
  }
}
