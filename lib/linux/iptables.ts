import { CommandError, run } from './run.js'

/** A family's set of programs, as Debian's package iptables brings them. */
export type IptablesFamily = 'iptables' | 'ip6tables'

/** Seconds to wait for the lock that all users of iptables share. */
const LOCK_WAIT_SECONDS = '10'
const TIMEOUT_MS = 15_000

/** One table as iptables-save prints it. */
export async function saveTable(family: IptablesFamily, table: string): Promise<string> {
  return await guarded(() =>
    run(`${family}-save`, ['-t', table], { timeoutMs: TIMEOUT_MS }),
  )
}

/** Changes a table in one step: the payload names only the chains it is about. */
export async function restoreTable(
  family: IptablesFamily,
  payload: string,
): Promise<void> {
  await guarded(() =>
    run(`${family}-restore`, ['--noflush', '--wait', LOCK_WAIT_SECONDS], {
      input: payload,
      timeoutMs: TIMEOUT_MS,
    }),
  )
}

/** MASQUERADE knows --random-fully since iptables 1.6.2. */
export async function supportsRandomFully(family: IptablesFamily): Promise<boolean> {
  const text = await guarded(() => run(family, ['--version']))
  const [, major, minor, patch] = /v(\d+)\.(\d+)\.(\d+)/.exec(text) ?? []
  const version = [major, minor, patch].map(Number)
  const [a = 0, b = 0, c = 0] = version
  return a > 1 || (a === 1 && (b > 6 || (b === 6 && c >= 2)))
}

async function guarded<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    if (error instanceof CommandError && error.code === 'ENOENT') {
      throw new Error(
        'the program iptables is not installed; install the package iptables',
        {
          cause: error,
        },
      )
    }
    throw error
  }
}
