import { readdir } from 'node:fs/promises'
import { type RunOptions, CommandError, run } from '../../../lib/linux/run.js'
import { until } from './until.js'

/** Where ip(8) keeps named network namespaces. */
const DIRECTORY = '/run/netns'

/** A killed process is gone within milliseconds, unless the machine is very busy. */
const KILL_DEADLINE_MS = 60_000

/** The command line that runs `command` inside a namespace; it keeps the pid of what is started. */
export function inside(namespace: string, command: readonly string[]): string[] {
  return ['nsenter', `--net=${DIRECTORY}/${namespace}`, '--', ...command]
}

/** A directory of a host's own, and the place where its programs look for it. */
export interface Mount {
  readonly from: string
  readonly at: string
}

const MOUNT_AND_RUN =
  'while [ "$1" != -- ]; do mkdir -p "$1" "$2" && mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'

/**
 * The command line that runs `command` with directories of its own, which network
 * namespaces do not bring; it keeps the pid of what is started.
 */
export function withMounts(
  mounts: readonly Mount[],
  command: readonly string[],
): string[] {
  const words = mounts.flatMap(({ from, at }) => [from, at])
  return [
    ...['unshare', '--mount', 'sh', '-c', MOUNT_AND_RUN, 'sh'],
    ...[...words, '--', ...command],
  ]
}

/** Where wireguard-go and wg(8) meet: each host of a lab has devices of the same names. */
export function mountsOfHost(directory: string): Mount[] {
  return [{ from: `${directory}/wireguard`, at: '/run/wireguard' }]
}

/** Until a command is killed: what operators run is not what a daemon waits for. */
const COMMAND_TIMEOUT_MS = 60_000

/** Runs a command inside a namespace and resolves with its standard output. Throws CommandError. */
export async function runInside(
  namespace: string,
  command: readonly string[],
  options?: RunOptions,
): Promise<string> {
  const [program = '', ...args] = inside(namespace, command)
  return await run(program, args, { timeoutMs: COMMAND_TIMEOUT_MS, ...options })
}

/** Runs lines of ip(8) inside a namespace, in one process. */
export async function ipInside(
  namespace: string,
  lines: readonly string[],
): Promise<void> {
  await run('ip', ['-n', namespace, '-batch', '-'], { input: `${lines.join('\n')}\n` })
}

export async function makeNamespaces(namespaces: readonly string[]): Promise<void> {
  const lines = namespaces.map(namespace => `netns add ${namespace}`)
  await run('ip', ['-batch', '-'], { input: `${lines.join('\n')}\n` })
}

/** Removes the namespaces and whatever runs inside. Those that do not exist are none of its business. */
export async function removeNamespaces(namespaces: readonly string[]): Promise<void> {
  const existing = await existingNamespaces(namespaces)
  await killInside(existing)
  for (const namespace of existing) await run('ip', ['netns', 'delete', namespace])
}

/**
 * Kills every process inside the namespaces. What runs there was started by the
 * lab or from a shell inside it, so no list of process numbers is needed that
 * could be out of date.
 */
export async function killInside(namespaces: readonly string[]): Promise<void> {
  await until('the processes of the lab end', KILL_DEADLINE_MS, async () => {
    const pids = (await Promise.all(namespaces.map(pidsInside))).flat()
    pids.forEach(kill)
    return pids.length === 0 ? true : undefined
  })
}

export async function existingNamespaces(
  namespaces: readonly string[],
): Promise<string[]> {
  const all = new Set(await readdir(DIRECTORY).catch(() => []))
  return namespaces.filter(namespace => all.has(namespace))
}

export async function pidsInside(namespace: string): Promise<number[]> {
  try {
    const text = await run('ip', ['netns', 'pids', namespace])
    return text.split('\n').filter(Boolean).map(Number)
  } catch (error) {
    // A name without a namespace behind it, left by a machine that crashed.
    if (error instanceof CommandError && error.exitCode !== null) return []
    throw error
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // It ended by itself since the list was made.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
