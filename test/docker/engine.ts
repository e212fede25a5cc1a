import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../lib/linux/run.js'
import { waitFor } from '../helpers/wait-for.js'

const COMMAND_TIMEOUT_MS = 60_000
const STOP_DEADLINE_MS = 20_000

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Debian's dockerd in a network namespace, with directories of its own. */
export class DockerEngine {
  readonly #directory: string
  readonly #child: ChildProcess

  private constructor(directory: string, child: ChildProcess) {
    this.#directory = directory
    this.#child = child
  }

  /** @param options what the engine is told besides its directories: from flanneld. */
  static async start(
    namespace: string,
    directory: string,
    options: readonly string[],
  ): Promise<DockerEngine> {
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'daemon.json'), '{}')
    const log = openSync(join(directory, 'log'), 'a')
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', '--', 'nsenter', `--net=/run/netns/${namespace}`],
        'dockerd',
        `--config-file=${join(directory, 'daemon.json')}`,
        `--data-root=${join(directory, 'root')}`,
        `--exec-root=${join(directory, 'exec')}`,
        `--pidfile=${join(directory, 'pid')}`,
        `--host=unix://${join(directory, 'sock')}`,
        // On an overlay file system, as containers and CI have, overlay2 cannot be had.
        '--storage-driver=vfs',
        ...options,
      ],
      { env: { PATH }, stdio: ['ignore', log, log], detached: true },
    )
    const engine = new DockerEngine(directory, child)
    try {
      await waitFor(`dockerd in ${namespace} answers`, async () => {
        return child.exitCode === null ? await engine.docker('version') : null
      })
      if (child.exitCode !== null) throw new Error(`dockerd ended:\n${engine.log()}`)
    } catch (error) {
      await engine.close()
      throw error
    }
    return engine
  }

  /** Runs docker(1) against this engine and resolves with what it prints. */
  async docker(...args: readonly string[]): Promise<string> {
    const host = `unix://${join(this.#directory, 'sock')}`
    const text = await run('docker', ['--host', host, ...args], {
      timeoutMs: COMMAND_TIMEOUT_MS,
    })
    return text.trim()
  }

  /** An image of nothing but Debian's static busybox. */
  async importBusybox(image: string): Promise<void> {
    const root = join(this.#directory, 'rootfs')
    const host = `unix://${join(this.#directory, 'sock')}`
    const script = `mkdir -p ${root}/bin && cp "$(command -v busybox)" ${root}/bin/ &&
      for name in sh sleep ping wget httpd cat dd nc ip; do ln -sf busybox ${root}/bin/$name; done &&
      tar -C ${root} -c . | docker --host ${host} import - ${image}`
    await run('sh', ['-c', script], { timeoutMs: COMMAND_TIMEOUT_MS })
  }

  log(): string {
    return readFileSync(join(this.#directory, 'log'), 'utf8')
  }

  /** Ends the engine with its containers. */
  async close(): Promise<void> {
    const ids = await this.docker('ps', '--quiet').catch(() => '')
    if (ids !== '') {
      await this.docker('rm', '--force', ...ids.split('\n')).catch(() => undefined)
    }
    this.#child.kill('SIGTERM')
    await waitFor(
      'dockerd ends',
      () => this.#child.exitCode !== null || this.#child.signalCode !== null,
      STOP_DEADLINE_MS,
    ).catch(() => this.#child.kill('SIGKILL'))
    // What overlay and shm mounts an engine leaves when it is killed.
    spawnSync('sh', ['-c', `umount -l ${this.#directory}/root/containers/*/mounts/shm`])
  }
}
