import { CommandError, run } from './run.js'

/** Changes by ip(8) and bridge(8), many in one process. ip-links.ts, ip-routes.ts and ip-neighbours.ts read. */

/**
 * Runs lines of ip(8) in one process. Stops at the first that fails, with the
 * line and iproute2's words in the error. An empty list does nothing.
 */
export async function batch(lines: readonly string[]): Promise<void> {
  if (lines.length === 0) return
  try {
    await run('ip', ['-batch', '-'], { input: `${lines.join('\n')}\n` })
  } catch (error) {
    throw explainIp(error, lines)
  }
}

/** A line that failed, and iproute2's words. */
export interface FailedLine {
  readonly line: string
  readonly why: string
}

/** Runs lines of ip(8) or bridge(8) in one process, each whatever became of the others. */
export async function forceBatch(
  program: 'ip' | 'bridge',
  lines: readonly string[],
): Promise<FailedLine[]> {
  if (lines.length === 0) return []
  try {
    await run(program, ['-force', '-batch', '-'], { input: `${lines.join('\n')}\n` })
    return []
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode === null)
      throw explainIp(error)
    // A complaint, then the number of its line.
    const complaints = error.stderr.split(/Command failed -:(\d+)\n?/)
    return complaints.flatMap((text, index) => {
      const number = index % 2 === 0 ? Number(complaints[index + 1]) : NaN
      const line = lines[number - 1]
      return line === undefined ? [] : [{ line: `${program} ${line}`, why: text.trim() }]
    })
  }
}

/**
 * What an error of ip(8) means: the line of a batch that failed (`Command failed -:2` is
 * the second), or that there is no such program.
 */
export function explainIp(error: unknown, lines: readonly string[] = []): unknown {
  if (!(error instanceof CommandError)) return error
  if (error.code === 'ENOENT') return missing()
  const number = /Command failed -:(\d+)/.exec(error.stderr)?.[1]
  const line = number === undefined ? undefined : lines[Number(number) - 1]
  if (line === undefined) return error
  const why = error.stderr.split('\n')[0]?.trim() ?? ''
  return new Error(`ip ${line}: ${why}`, { cause: error })
}

function missing(): Error {
  return new Error('the program ip is not installed; install the package iproute2')
}
