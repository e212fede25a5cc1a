import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { waitFor } from './wait-for.js'

const PROGRAM = fileURLToPath(new URL('../../cmd/flanneld.js', import.meta.url))

/** tap makes every Node program write into its directory, where not every user may. */
const UNWATCHED = ['env', '--unset=NODE_OPTIONS']

/** The real flanneld as a child, and what it says on standard error. */
export class Daemon {
  readonly #child: ChildProcess
  #stderr = ''

  /** @param wrap a command that runs the rest of its arguments. */
  constructor(args: readonly string[], wrap: readonly string[] = []) {
    const program = [...UNWATCHED, process.execPath, PROGRAM]
    const line = ['--pdeathsig', 'KILL', '--', ...wrap, ...program, ...args]
    this.#child = spawn('setpriv', line, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { PATH: process.env['PATH'] },
    })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
  }

  /** Lines without their time. */
  get lines(): string[] {
    return this.#stderr
      .trimEnd()
      .split('\n')
      .map(line => line.replace(/^\d\d:\d\d:\d\d /, ''))
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the daemon was not started')
    return this.#child.pid
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** Waits until it says something that matches, and returns that line. */
  async says(pattern: RegExp): Promise<string> {
    const said = await waitFor(
      `the daemon to say ${String(pattern)}`,
      () =>
        this.lines.find(line => pattern.test(line)) ??
        (this.isRunning ? undefined : null),
    )
    if (said === null) throw new Error(`the daemon ended:\n${this.#stderr}`)
    return said
  }

  /** Waits until it has ended by itself; its exit code. */
  async ended(): Promise<number> {
    return await waitFor(`the daemon to end; it said\n${this.#stderr}`, () => {
      if (this.isRunning || this.#child.stderr?.readableEnded === false) return undefined
      return this.#child.exitCode ?? -1
    })
  }

  /** Ends it with everything that it started. Returns its exit code. */
  async stop(): Promise<number> {
    if (this.isRunning) this.#child.kill('SIGINT')
    return await this.ended()
  }
}
