import { readFile } from 'node:fs/promises'
import { CommandError, NotThereError, run } from './run.js'

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

export interface IptablesKinds {
  /** In which there may be rules. */
  readonly inUse: readonly IptablesVariant[]
  /** In which Docker's or kube-proxy's rules are; the system's own when they are in neither or both. */
  readonly chosen: IptablesVariant
}

/** Chains by which Docker and kube-proxy are known. */
const THEIRS = /^:(DOCKER|KUBE)-/m

export async function readKinds(family: IptablesFamily): Promise<IptablesKinds> {
  const installed = await installedKinds(family)
  if (installed.length === 0) return { inUse: [''], chosen: '' }
  const isLegacyUsed = await usesLegacy(family)
  const inUse = installed.filter(variant => variant !== '-legacy' || isLegacyUsed)
  const theirs: IptablesVariant[] = []
  for (const variant of inUse) {
    const saved = await saveTable(family, 'filter', variant).catch(() => '')
    if (THEIRS.test(saved)) theirs.push(variant)
  }
  const [only] = theirs
  if (only !== undefined && theirs.length === 1) return { inUse, chosen: only }
  const version = await run(family, ['--version']).catch(() => '')
  const own = version.includes('legacy') ? '-legacy' : '-nft'
  return { inUse, chosen: installed.includes(own) ? own : '' }
}

async function installedKinds(family: IptablesFamily): Promise<IptablesVariant[]> {
  const answers = await Promise.all(
    (['-nft', '-legacy'] as const).map(async variant =>
      run(`${family}${variant}-save`, ['--version']).then(
        () => [variant],
        () => [],
      ),
    ),
  )
  return answers.flat()
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
    if (error instanceof CommandError && error.code === 'ENOENT')
      throw new NotThereError('iptables', error)
    throw error
  }
}
