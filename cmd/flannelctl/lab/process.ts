import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { inside } from './namespaces.js'

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export interface LabProcessOptions {
  readonly namespace: string
  readonly command: readonly string[]
  /** File that its output is appended to. */
  readonly log: string
  /** Go on after this process has ended, as `lab up` wants it. */
  readonly outlive: boolean
}

export interface Exit {
  readonly exitCode: number | null
  readonly signal: NodeJS.Signals | null
}

/** A long-running program inside a namespace of the lab. */
export class LabProcess {
  /** Resolves when it has ended, however. */
  readonly exited: Promise<Exit>
  readonly #child: ChildProcess
  #exit: Exit | undefined

  constructor({ namespace, command, log, outlive }: LabProcessOptions) {
    const entered = inside(namespace, command)
    // Even kill -9 of this process must not leave a lab behind that nobody wants.
    const [program = '', ...args] = outlive
      ? entered
      : ['setpriv', '--pdeathsig', 'KILL', '--', ...entered]
    const output = openSync(log, 'a', 0o600)
    try {
      this.#child = spawn(program, args, {
        env: { PATH, LC_ALL: 'C' },
        stdio: ['ignore', output, output],
        // Ctrl-C reaches the whole foreground group; the lab ends its processes itself.
        detached: true,
      })
    } finally {
      closeSync(output)
    }
    if (outlive) this.#child.unref()
    this.exited = new Promise(resolve => {
      const settle = (exit: Exit): void => {
        this.#exit = exit
        resolve(exit)
      }
      this.#child.once('exit', (exitCode, signal) => {
        settle({ exitCode, signal })
      })
      this.#child.once('error', () => {
        settle({ exitCode: null, signal: null })
      })
    })
  }

  /** 0 when it could not even be started. */
  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** How it ended; undefined while it runs. */
  get exit(): Exit | undefined {
    return this.#exit
  }

  /** Sends a signal and waits for the end that it brings. */
  async end(signal: NodeJS.Signals): Promise<Exit> {
    this.#child.ref()
    if (this.#exit === undefined) this.#child.kill(signal)
    return await this.exited
  }
}

/** The last line of a log: what a program that failed said about it. */
export async function lastLine(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '')
  return text.trimEnd().split('\n').at(-1) ?? ''
}
