import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'

/** Children get nothing of our environment but a path and the plain locale their output is read in. */
export const CLEAN_ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
}

export interface RunOptions {
  /** Written to the command's standard input, which is otherwise empty. */
  readonly input?: string
  /** Milliseconds until the command is killed. */
  readonly timeoutMs?: number
  /** Bytes of output, both streams together, at which the command is killed. */
  readonly maxOutput?: number
  /** Variables besides the path and the locale. */
  readonly environment?: Readonly<Record<string, string>>
  /** Kills the command when it aborts. */
  readonly signal?: AbortSignal
  /** In a session of its own: what a terminal sends to our group does not reach it. */
  readonly isDetached?: boolean
  /** Take what it writes to standard error for output too, as it comes. */
  readonly isCombined?: boolean
}

/** The routes of a full Internet table are about 150 MB of JSON. */
const MAX_OUTPUT = 256 << 20

/** Longest part of a command's complaint that goes into an error. */
const MAX_COMPLAINT = 2000

/** A command that could not be started, failed, or took too long. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  /** ENOENT when the program is not installed. */
  readonly code: string | undefined
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string

  constructor(
    message: string,
    result: {
      code?: string | undefined
      exitCode?: number | null
      stdout?: string
      stderr?: string
    },
  ) {
    super(message)
    this.code = result.code
    this.exitCode = result.exitCode ?? null
    this.stdout = result.stdout ?? ''
    this.stderr = result.stderr ?? ''
  }
}

/** A program that is not installed: what it would list is not there either. */
export class NotThereError extends Error {
  override readonly name = 'NotThereError'

  /** @param program also the name of the package, as far as we know. */
  constructor(program: string, cause: CommandError, packageName = program) {
    const message = `the program ${program} is not installed; install the package ${packageName}`
    super(message, { cause })
  }
}

/** Whether a listing failed because neither the program nor the kernel's part is there. */
export function isNotThere(error: unknown): boolean {
  return (
    error instanceof NotThereError ||
    (error instanceof CommandError &&
      /(Protocol|Operation) not supported|Table does not exist/.test(error.stderr))
  )
}

/** Runs a program without a shell and resolves with its standard output. Throws CommandError. */
export async function run(
  program: string,
  args: readonly string[],
  {
    input = '',
    timeoutMs = 10_000,
    maxOutput = MAX_OUTPUT,
    environment = {},
    isCombined = false,
    signal,
    isDetached = false,
  }: RunOptions = {},
): Promise<string> {
  const line = [program, ...args].join(' ')
  const child = spawn(program, args, {
    env: { ...CLEAN_ENVIRONMENT, ...environment },
    stdio: 'pipe',
    detached: isDetached,
  })
  // Not started: there may be no pipes either.
  if (child.pid === undefined) throw await startFailure(child, line)
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  // A command that exits without reading its input closes the pipe: its exit code tells more.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)

  return await new Promise((resolve, reject) => {
    const settle = (exitCode: number | null, why: string | undefined): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
      const output = Buffer.concat(stdout).toString()
      const complaint = Buffer.concat(stderr).toString()
      if (why === undefined) resolve(output)
      else {
        const result = { exitCode, stdout: output, stderr: complaint }
        reject(new CommandError(`${line} ${why}`, result))
      }
    }
    const giveUp = (why: string): void => {
      child.kill('SIGKILL')
      // What the command started may hold the pipes open for ever.
      child.stdout.destroy()
      child.stderr.destroy()
      settle(null, why)
    }
    const timer = setTimeout(() => {
      giveUp(`gave no answer in ${timeoutMs} ms`)
    }, timeoutMs)
    const stop = (): void => {
      giveUp('was stopped')
    }
    signal?.addEventListener('abort', stop)
    if (signal?.aborted === true) stop()
    let size = 0
    const collect = (chunks: Buffer[]) => (chunk: Buffer) => {
      chunks.push(chunk)
      size += chunk.length
      if (size > maxOutput) giveUp(`printed more than ${maxOutput} bytes`)
    }
    child.stdout.on('data', collect(stdout))
    child.stderr.on('data', collect(isCombined ? stdout : stderr))
    child.on('close', (exitCode, signal) => {
      if (exitCode === 0) settle(0, undefined)
      else {
        const said = Buffer.concat(isCombined ? stdout : stderr).toString()
        settle(exitCode, explain(exitCode, signal, said))
      }
    })
  })
}

async function startFailure(child: ChildProcess, line: string): Promise<CommandError> {
  const [error] = (await once(child, 'error')) as [NodeJS.ErrnoException]
  return new CommandError(`cannot run ${line}: ${error.message}`, { code: error.code })
}

function explain(
  exitCode: number | null,
  signal: NodeJS.Signals | null,
  stderr: string,
): string {
  const end =
    exitCode === null
      ? `was ended by ${signal ?? 'a signal'}`
      : `failed with exit code ${exitCode}`
  return `${end}: ${stderr.trim().slice(0, MAX_COMPLAINT) || 'no message'}`
}
