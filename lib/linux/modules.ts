import { access } from 'node:fs/promises'
import { CommandError, run } from './run.js'

/** What a backend needs of the kernel. */
const MODULES: Readonly<Record<string, string>> = {
  udp: 'tun',
  vxlan: 'vxlan',
  ipip: 'ipip',
}

/**
 * The module of the kernel that a type of backend needs, when it is neither there, built
 * in or loaded, nor can be loaded. Undefined also when nobody knows.
 */
export async function findMissingModule(backend: string): Promise<string | undefined> {
  const name = MODULES[backend]
  if (name === undefined) return undefined
  if (await exists(name === 'tun' ? '/dev/net/tun' : `/sys/module/${name}`))
    return undefined
  // In a container, and where the kernel loads nothing, nobody knows what it has.
  if (!(await exists('/lib/modules'))) return undefined
  return (await canBeLoaded(name)) === false ? name : undefined
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

/** Undefined when modprobe(8) is not installed. */
async function canBeLoaded(name: string): Promise<boolean | undefined> {
  try {
    await run('modprobe', ['--dry-run', '--quiet', name])
    return true
  } catch (error) {
    if (error instanceof CommandError && error.exitCode !== null) return false
    return undefined
  }
}
