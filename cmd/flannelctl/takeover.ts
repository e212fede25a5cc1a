import { mkdir, readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { checkBackend } from '../../lib/backend/backends.js'
import { run } from '../../lib/linux/run.js'
import { parseNetworkConfig } from '../../lib/subnet/network-config.js'
import { configKey, formatSubnet, prefixesOf } from '../../lib/subnet/subnet-key.js'
import { formatVariable, parseSubnetEnv } from '../../lib/subnet/subnet-env.js'
import { readCommandLine } from '../flanneld/command-line.js'
import { readFileIfAny, writeFileAtomic } from '../flanneld/files.js'
import { FLANNELD_FLAGS, environmentName } from '../flanneld/flag-table.js'
import { type Flags, UsageError } from '../flanneld/parse-flags.js'
import { PASSWORD_FILE } from './cloud-config.js'
import { ENVIRONMENT_FILE } from './unit-settings.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { askDaemon } from './daemon-status.js'
import { withRegistry } from './etcd.js'
import { type RunningFlannel, findFlannel } from './running-flannel.js'

const OUR_UNIT = 'flanneld.service'

/** What was there before, for the way back. */
const MEMORY_FILE = '/var/lib/flannel/takeover.json'

/** A daemon that finds its record is ready in a second; one that waits for etcd takes longer. */
const READY_MS = 60_000
const POLL_MS = 200
/** What stops or starts services, or takes away what one has made. */
const SLOW_MS = 90_000

const memorySchema = z.object({
  unit: z.string(),
  /** The files that were written, with what was there before. */
  files: z.record(z.string(), z.string().nullable()),
})

type Memory = z.infer<typeof memorySchema>
type FlanneldFlags = Flags<typeof FLANNELD_FLAGS>

const SWITCH = { type: 'boolean', default: 'false', environment: false } as const

export const takeoverCommand = defineCommand({
  help: `
flannelctl takeover --dry-run | --go | --back

Puts flanneld in the place of the flannel that runs on this host. --dry-run says what
would change: the settings that flannel was started with, written for flanneld, one
unit of systemd stopped and the other started. --go does it, waits until flanneld is
ready with the same subnet, and takes it all back if that does not happen. Subnet,
device, keys and what etcd knows of this host stay; packets of the kernel's backends go
on meanwhile, those of udp wait for a second. --back is the way back.

  flannelctl takeover --dry-run
  flannelctl takeover --go
  flannelctl takeover --back

Exits with ${EXIT.failure} when nothing was changed, or all of it was taken back.`,
  flags: {
    json: COMMON_FLAGS.json,
    'dry-run': { ...SWITCH, describe: 'say what would change' },
    go: { ...SWITCH, describe: 'do it' },
    back: { ...SWITCH, describe: 'undo what --go has done' },
  },
  run: async (flags, words) => {
    refuseWords('takeover', words)
    const chosen = [flags['dry-run'], flags.go, flags.back].filter(Boolean)
    if (chosen.length !== 1)
      throw new UsageError('takeover takes one of --dry-run, --go and --back')
    if (flags.back) {
      await goBack()
      return EXIT.ok
    }
    const plan = await makePlan(await findOne())
    if (flags.json) printJson(describe(plan))
    else process.stdout.write(format(plan))
    if (flags.go) await go(plan)
    return EXIT.ok
  },
})

interface Plan {
  readonly flannel: RunningFlannel
  readonly flags: FlanneldFlags
  readonly subnet: string
  readonly backend: string
  readonly files: readonly {
    readonly path: string
    readonly mode: number
    readonly text: string
  }[]
}

async function findOne(): Promise<RunningFlannel> {
  const found = await findFlannel()
  const [flannel] = found
  if (flannel === undefined)
    throw new CommandFailure(
      'no flannel runs on this host: flanneld starts as it is (systemctl start flanneld), and finds the record of this host in etcd',
    )
  if (found.length > 1)
    throw new CommandFailure(
      `${found.length} flannels run on this host (${found.map(({ pid }) => pid).join(', ')}): take them over by hand, one after the other`,
    )
  return flannel
}

/** Throws CommandFailure when flanneld could not go on where flannel is. */
async function makePlan(flannel: RunningFlannel): Promise<Plan> {
  const flags = readItsFlags(flannel)
  const { subnet } = parseSubnetEnv((await readFileIfAny(flags['subnet-file'])) ?? '')
  if (prefixesOf(subnet).length === 0)
    throw new CommandFailure(
      `flannel has not written ${flags['subnet-file']} yet: it has no subnet that could be kept`,
    )
  const text = await withRegistry(flags, async (registry, prefix) => {
    const { entry } = await registry.get(configKey(prefix))
    return entry?.value
  })
  if (text === undefined)
    throw new CommandFailure(
      `etcd has no network configuration below ${flags['etcd-prefix']}; is it another etcd, or the second version of its API?`,
    )
  const config = parseNetworkConfig(text)
  checkBackend(config)
  return {
    flannel,
    flags,
    subnet: formatSubnet(subnet),
    backend: config.backend.type,
    files: settingsOf(flags),
  }
}

function readItsFlags({ args, environment }: RunningFlannel): FlanneldFlags {
  try {
    return readCommandLine(FLANNELD_FLAGS, args, environment).flags
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    throw new CommandFailure(
      `flannel runs in a way that flanneld cannot: ${error.message}`,
    )
  }
}

/** What differs from the defaults, for the unit; a password in a file of its own. */
function settingsOf(flags: FlanneldFlags): Plan['files'] {
  const files: { path: string; mode: number; text: string }[] = []
  const lines: string[] = []
  for (const [name, flag] of Object.entries(FLANNELD_FLAGS)) {
    const value = flags[name as keyof FlanneldFlags]
    const text = Array.isArray(value) ? value.join(',') : String(value)
    if (text === flag.default) continue
    if (name === 'etcd-password') {
      files.push({ path: PASSWORD_FILE, mode: 0o600, text: `${text}\n` })
      lines.push(`${environmentName('etcd-password-file')}=${PASSWORD_FILE}`)
    } else lines.push(formatVariable(environmentName(name), text))
  }
  const text = `# As flannel was started, from flannelctl takeover.\n${lines.join('\n')}\n`
  return [{ path: ENVIRONMENT_FILE, mode: 0o644, text }, ...files]
}

function describe({ flannel, subnet, backend, files }: Plan): object {
  const { pid, unit } = flannel
  return {
    flannel: { pid, unit: unit ?? null },
    subnet,
    backend,
    // A password is nobody's business.
    files: files.map(({ path, mode, text }) => ({
      path,
      mode: mode.toString(8),
      text: mode === 0o600 ? null : text,
    })),
  }
}

function format({ flannel, subnet, backend, files }: Plan): string {
  const { pid, unit } = flannel
  const traffic =
    backend === 'udp'
      ? 'packets wait for about a second'
      : 'packets go on by the kernel meanwhile'
  return [
    `flannel runs as process ${pid}${unit === undefined ? '' : ` of ${unit}`}, with the backend ${backend}`,
    `keep   the subnet ${subnet}, its device, and the record in etcd`,
    ...files.map(({ path, mode, text }) =>
      mode === 0o600
        ? `write  ${path}, the password of etcd, for root alone`
        : `write  ${path}:\n${text.replaceAll(/^(?=.)/gm, '         ').trimEnd()}`,
    ),
    `stop   ${unit ?? `process ${pid}`}, and keep it from starting: ${traffic}`,
    `start  ${OUR_UNIT}, now and at boot`,
    '',
  ].join('\n')
}

async function go(plan: Plan): Promise<void> {
  const { unit, isContained, pid } = plan.flannel
  if (unit === undefined || isContained)
    throw new CommandFailure(
      `no unit of systemd starts flannel (process ${pid}): write the files above, stop it where it was started, then systemctl enable --now flanneld`,
    )
  if (unit === OUR_UNIT)
    throw new CommandFailure(
      `flannel's unit is called ${OUR_UNIT}, as ours is: rename it to flannel.service, and run it by that name first`,
    )
  const files: Record<string, string | null> = {}
  for (const { path } of plan.files) files[path] = (await readFileIfAny(path)) ?? null
  const memory: Memory = { unit, files }
  await mkdir(dirname(MEMORY_FILE), { recursive: true })
  await writeFileAtomic(MEMORY_FILE, JSON.stringify(memory), 0o600)
  try {
    for (const { path, mode, text } of plan.files) await writeFileAtomic(path, text, mode)
    await systemctl('disable', '--now', unit)
    await forgetFailures()
    await systemctl('enable', '--now', '--no-block', OUR_UNIT)
    await waitForSubnet(plan)
  } catch (error) {
    await undo(memory)
    throw new CommandFailure(
      `it was taken back, and ${unit} runs again: ${(error as Error).message}`,
    )
  }
  process.stdout.write(`flanneld is ready with ${plan.subnet}\n`)
}

async function waitForSubnet({ flags, subnet }: Plan): Promise<void> {
  const end = performance.now() + READY_MS
  let seen = 'it does not answer'
  while (performance.now() < end) {
    const status = await askDaemon(flags).catch(() => undefined)
    const held = status?.lease?.subnet
    if (status?.phase === 'ready' && held !== undefined) {
      if (held === subnet) return
      throw new Error(`flanneld has got ${held} instead of ${subnet}`)
    }
    seen = status?.waitingFor ?? status?.phase ?? seen
    if (status === undefined) await refuseFailed()
    await sleep(POLL_MS)
  }
  throw new Error(`flanneld was not ready in ${READY_MS / 1000} s: ${seen}`)
}

/** Throws when the unit has ended by itself, whether or not systemd starts it again. */
async function refuseFailed(): Promise<void> {
  const show = ['show', '--property=NRestarts', '--property=ActiveState', OUR_UNIT]
  const state = await systemctl(...show)
  if (!/^NRestarts=0$/m.test(state) || /^ActiveState=failed$/m.test(state))
    throw new Error(`flanneld ends: journalctl -u ${OUR_UNIT} says why`)
}

/** Those of another time do not count. There are none when systemd does not know the unit. */
async function forgetFailures(): Promise<void> {
  await systemctl('reset-failed', OUR_UNIT).catch(() => undefined)
}

async function goBack(): Promise<void> {
  const text = await readFile(MEMORY_FILE, 'utf8').catch(() => undefined)
  if (text === undefined)
    throw new CommandFailure(`nothing was taken over on this host (${MEMORY_FILE})`)
  const memory = memorySchema.parse(JSON.parse(text))
  await undo(memory)
  process.stdout.write(`${memory.unit} runs again\n`)
}

/** Stops ours, takes away what it made, and starts what was there before with its files. */
async function undo({ unit, files }: Memory): Promise<void> {
  await systemctl('disable', '--now', OUR_UNIT)
  await forgetFailures()
  await run(process.execPath, [process.argv[1] ?? '', 'cleanup'], { timeoutMs: SLOW_MS })
  for (const [path, text] of Object.entries(files))
    if (text === null) await rm(path, { force: true })
    else await writeFileAtomic(path, text, path === PASSWORD_FILE ? 0o600 : 0o644)
  await systemctl('enable', '--now', unit)
  await rm(MEMORY_FILE, { force: true })
}

async function systemctl(...args: readonly string[]): Promise<string> {
  return await run('systemctl', args, { timeoutMs: SLOW_MS })
}
