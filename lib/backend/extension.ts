import { CommandError, run } from '../linux/run.js'
import { splitWords } from '../linux/words.js'
import { inChunks } from '../subnet/in-chunks.js'
import { untilAborted } from '../subnet/loops.js'
import { type NetworkConfig, option } from '../subnet/network-config.js'
import {
  type Address,
  type Family,
  formatAddress,
  formatPrefix,
} from '../subnet/prefix.js'
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

/** Commands of remotes that run at the same time. */
const AT_ONCE = 8

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
      return new ExtensionBackend(context, commands)
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
): Promise<string | undefined> {
  const [program, ...args] = splitWords(command, variables)
  if (program === undefined) return undefined
  return await run(program, args, {
    input,
    environment: variables,
    timeoutMs: TIMEOUT_MS,
    maxOutput: MOST_OUTPUT,
    isCombined: true,
  })
}

/** What the commands are told of a remote. */
interface Told {
  readonly variables: Variables
  /** Of the other host's making, so it comes by standard input alone. */
  readonly input: string
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
  /** By subnet, those of which the commands have been told, as text. */
  readonly #told = new Map<string, { readonly told: Told; readonly text: string }>()
  /** Why the last command failed that was to tell of a subnet. */
  readonly #failed = new Map<string, string>()

  constructor(context: BackendContext, commands: Commands) {
    this.device = context.underlay.device
    this.#context = context
    this.#commands = commands
  }

  get trouble(): string | undefined {
    const [first] = this.#failed
    if (first === undefined) return undefined
    const more = this.#failed.size > 1 ? ` (and ${this.#failed.size - 1} more)` : ''
    return `${first[0]}: ${first[1]}${more}`
  }

  /** One that failed is tried again with the next list, every five minutes at the latest. */
  async apply(remotes: readonly Remote[]): Promise<void> {
    const wanted = new Map(
      remotes.map(remote => {
        const told = tellOf(remote)
        return [
          formatSubnet(remote.subnet),
          { told, text: JSON.stringify(told) },
        ] as const
      }),
    )
    for (const subnet of this.#failed.keys())
      if (!wanted.has(subnet)) this.#failed.delete(subnet)
    await this.#remove([...this.#told.keys()].filter(subnet => !wanted.has(subnet)))
    const news = [...wanted].filter(
      ([subnet, { text }]) => this.#told.get(subnet)?.text !== text,
    )
    await inChunks(news, AT_ONCE, async ([subnet, entry]) => {
      if (await this.#tell('SubnetAddCommand', subnet, entry.told))
        this.#told.set(subnet, entry)
    })
  }

  async #remove(subnets: readonly string[]): Promise<void> {
    await inChunks(subnets, AT_ONCE, async subnet => {
      const entry = this.#told.get(subnet)
      if (entry === undefined) return
      await this.#tell('SubnetRemoveCommand', subnet, entry.told)
      // Failed or not: the subnet may be another's by now.
      this.#told.delete(subnet)
      this.#failed.delete(subnet)
    })
  }

  async #tell(
    name: 'SubnetAddCommand' | 'SubnetRemoveCommand',
    subnet: string,
    { variables, input }: Told,
  ): Promise<boolean> {
    const { log } = this.#context
    try {
      await runCommand(this.#commands[name], variables, input)
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
    if (how === 'end') await this.#remove([...this.#told.keys()])
  }
}
