import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { inside } from '../../cmd/flannelctl/lab/namespaces.js'

/** A program of ours in a network namespace that answers each line with a line; its first says that it is ready. */
export class AskedProcess {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: AsyncIterator<string>

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  }

  static async start(
    namespace: string,
    program: string,
    ...args: readonly string[]
  ): Promise<AskedProcess> {
    const command = inside(namespace, [process.execPath, program, ...args])
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const started = new AskedProcess(child)
    await started.#answer()
    return started
  }

  async ask(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`)
    return await this.#answer()
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exit
  }

  async #answer(): Promise<string> {
    const next = await this.#lines.next()
    if (next.done === true)
      throw new Error(`${this.#child.spawnargs.join(' ')} has ended`)
    return next.value
  }
}
