import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'

/** Reads a kernel setting such as `net/ipv4/ip_forward`; undefined when this kernel has none. */
export async function readSysctl(name: string): Promise<string | undefined> {
  try {
    return (await readFile(`/proc/sys/${name}`, 'utf8')).trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Writes a kernel setting. Settings of IPv6 are left alone on a kernel without it. */
export async function writeSysctl(name: string, value: string): Promise<void> {
  try {
    await writeFile(`/proc/sys/${name}`, value)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/** Whether this kernel has IPv6: one that was started with ipv6.disable=1 has not. */
export function hasIpv6(): boolean {
  return existsSync('/proc/sys/net/ipv6')
}
