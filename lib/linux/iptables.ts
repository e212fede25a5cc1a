import { readFile } from 'node:fs/promises'
import { CommandError, run } from './run.js'

/** A family's set of programs, as Debian's package iptables brings them. */
export type IptablesFamily = 'iptables' | 'ip6tables'

/** Seconds to wait for the lock that all users of iptables share. */
const LOCK_WAIT_SECONDS = '10'
const TIMEOUT_MS = 15_000

/**
 * Which of a family's programs: those that the system prefers, or those of one
 * kind. Rules of the one kind are not seen by the other, and each judges packets.
 */
export type IptablesVariant = '' | '-nft' | '-legacy'

/** One table as iptables-save prints it. */
export async function saveTable(
  family: IptablesFamily,
  table: string,
  variant: IptablesVariant = '',
): Promise<string> {
  return await guarded(() =>
    run(`${family}${variant}-save`, ['-t', table], { timeoutMs: TIMEOUT_MS }),
  )
}

/** Changes a table in one step: the payload names only the chains it is about. */
export async function restoreTable(
  family: IptablesFamily,
  payload: string,
  variant: IptablesVariant = '',
): Promise<void> {
  await guarded(() =>
    run(`${family}${variant}-restore`, ['--noflush', '--wait', LOCK_WAIT_SECONDS], {
      input: payload,
      timeoutMs: TIMEOUT_MS,
    }),
  )
}

/** Chains by which Docker and kube-proxy are known. */
const THEIRS = /^:(DOCKER|KUBE)-/m

/** The kind in which Docker's or kube-proxy's rules are; the system's own when in neither or both. */
export async function chooseVariant(family: IptablesFamily): Promise<IptablesVariant> {
  const has = async (variant: IptablesVariant): Promise<boolean> => {
    try {
      return THEIRS.test(await saveTable(family, 'filter', variant))
    } catch {
      // This system has only one kind.
      return false
    }
  }
  const isNft = await has('-nft')
  const isLegacy = (await usesLegacy(family)) && (await has('-legacy'))
  return isNft === isLegacy ? '' : isNft ? '-nft' : '-legacy'
}

/** Asking iptables-legacy for a table makes that table: the kernel is asked first. */
async function usesLegacy(family: IptablesFamily): Promise<boolean> {
  const file = family === 'iptables' ? 'ip_tables_names' : 'ip6_tables_names'
  const names = await readFile(`/proc/net/${file}`, 'utf8').catch(() => '')
  return names.trim() !== ''
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
