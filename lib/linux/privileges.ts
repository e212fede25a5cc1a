import { readFile } from 'node:fs/promises'
import * as libc from './libc.js'
import { refuseNewResources } from './system-call-filter.js'

// include/uapi/linux/prctl.h
const PR_SET_DUMPABLE = 4
const PR_SET_NO_NEW_PRIVS = 38

/** Bit in a capability mask (include/uapi/linux/capability.h). */
const CAP_NET_ADMIN = 12n

/** The kernel's overflow user, `nobody` on every distribution. */
const NOBODY = 65_534

/**
 * Gives up root for good: no user, groups or capabilities, none to be gained by
 * exec, no other process of `nobody` may trace this one; and, where the kernel has
 * seccomp, no file, program or socket but of UDP. Called after everything was opened
 * and loaded. Without root it only closes the way up.
 */
export function dropPrivileges(): void {
  if (process.getuid?.() === 0) {
    process.setgroups?.([])
    process.setgid?.(NOBODY)
    process.setuid?.(NOBODY)
  }
  if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    throw libc.lastError('PR_SET_NO_NEW_PRIVS')
  if (libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) throw libc.lastError('PR_SET_DUMPABLE')
  refuseNewResources()
}

/** Whether this process may make devices, routes and rules in its network namespace. */
export async function mayAdministerNetwork(): Promise<boolean> {
  const status = await readFile('/proc/self/status', 'utf8')
  const mask = /^CapEff:\s+([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'
  return ((BigInt(`0x${mask}`) >> CAP_NET_ADMIN) & 1n) === 1n
}
