import { access, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { type RunOptions, run } from '../../lib/linux/run.js'
import { waitFor } from '../helpers/wait-for.js'

const COMMAND_TIMEOUT_MS = 120_000

const BOOT = fileURLToPath(
  new URL('../../../test/packaging/boot-machine.sh', import.meta.url),
)

/**
 * A host as an operator has it: Debian, with systemd as process 1, its packages and its
 * units, on this machine's kernel in namespaces. What it writes is gone with it.
 */
export class Machine {
  readonly name: string
  readonly #pid: number

  private constructor(name: string, pid: number) {
    this.name = name
    this.#pid = pid
  }

  /** @param namespace named network namespace whose interfaces it has. */
  static async boot(t: Test, name: string, namespace: string): Promise<Machine> {
    const directory = await mkdtemp(join(tmpdir(), 'machine-'))
    const log = join(directory, 'log')
    const process = new LabProcess({
      namespace,
      command: [
        ...['unshare', '--mount', '--pid', '--uts', '--ipc', '--fork', '--kill-child'],
        ...['sh', BOOT, directory, name],
      ],
      log,
      outlive: false,
    })
    t.teardown(async () => {
      await process.end('SIGKILL')
      await removeControlGroups(name)
      await rm(directory, { recursive: true })
    })
    const machine = await waitFor(`${name} boots`, async () => {
      if (process.exit !== undefined) return null
      const pid = await childOf(process.pid)
      if (pid === undefined) return undefined
      const machine = new Machine(name, pid)
      const state = await machine.shell(
        '[ ! -e /run/hierarchies ] || systemctl is-active basic.target || true',
      )
      return state === 'active\n' && machine
    })
    if (machine === null)
      throw new Error(`${name} does not boot:\n${await readFile(log, 'utf8')}`)
    return machine
  }

  /** Runs a command in the machine and resolves with what it prints. Throws CommandError. */
  async run(command: readonly string[], options: RunOptions = {}): Promise<string> {
    const enter = ['--target', String(this.#pid), '--all', '--root', '--wdns=/root', '--']
    return await run('nsenter', [...enter, ...command], {
      timeoutMs: COMMAND_TIMEOUT_MS,
      ...options,
    })
  }

  /** What an operator types, up to the first command that fails. */
  async shell(script: string, options: RunOptions = {}): Promise<string> {
    return await this.run(
      ['bash', '--norc', '-e', '-o', 'pipefail', '-c', script],
      options,
    )
  }

  /** Puts a file of the outside into its root directory's /root. */
  async copy(path: string, to: string): Promise<void> {
    const content = await readFile(path, 'base64')
    await this.shell(`base64 -d >${to}`, { input: content })
  }

  /** The journal of a unit, without what systemd says of it. */
  async journal(unit: string): Promise<string> {
    return await this.shell(`journalctl --no-pager -o cat -u ${unit}`)
  }
}

async function childOf(pid: number): Promise<number | undefined> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')
  const [child] = text.trim().split(' ')
  return child === undefined || child === '' ? undefined : Number(child)
}

/** The kernel keeps those of a machine that is gone, and for a moment its processes. */
async function removeControlGroups(name: string): Promise<void> {
  const mounts = await readFile('/proc/mounts', 'utf8')
  for (const [, at = ''] of mounts.matchAll(/^\S+ (\S+) cgroup2? /gm)) {
    const group = join(at, name)
    await waitFor(`${group} is gone`, async () => {
      await run('sh', [
        '-c',
        'find "$1" -depth -type d -exec rmdir {} \\; 2>&1 || true',
        'sh',
        group,
      ])
      return await access(group).then(
        () => undefined,
        () => true,
      )
    })
  }
}
