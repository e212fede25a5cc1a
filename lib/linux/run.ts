import { spawn } from 'node:child_process'

/** Children get nothing of our environment but a path and the plain locale their output is read in. */
const CLEAN_ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
}

export interface RunOptions {
  /** Written to the command's standard input, which is otherwise empty. */
  readonly input?: string
  /** Milliseconds until the command is killed. */
  readonly timeoutMs?: number
}

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

/** Runs a program without a shell and resolves with its standard output. Throws CommandError. */
export async function run(
  program: string,
  args: readonly string[],
  { input = '', timeoutMs = 10_000 }: RunOptions = {},
): Promise<string> {
  const child = spawn(program, args, { env: CLEAN_ENVIRONMENT, stdio: 'pipe' })
  const line = [program, ...args].join(' ')
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk))
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk))
  // A command that exits without reading its input closes the pipe: its exit code tells more.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)

  return await new Promise((resolve, reject) => {
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      child.kill('SIGKILL')
    }, timeoutMs)
    child.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      reject(
        new CommandError(`cannot run ${line}: ${error.message}`, { code: error.code }),
      )
    })
    child.on('close', exitCode => {
      clearTimeout(timer)
      if (exitCode === 0) {
        resolve(stdout)
        return
      }
      const why = timedOut
        ? `gave no answer in ${timeoutMs} ms`
        : `failed with exit code ${exitCode ?? 'none'}: ${stderr.trim() || 'no message'}`
      reject(new CommandError(`${line} ${why}`, { exitCode, stdout, stderr }))
    })
  })
}
