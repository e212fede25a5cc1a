import { join, resolve } from 'node:path'
import { type FileLock, tryLockFile } from '../../lib/linux/file-lock.js'
import { MAX_SOCKET_PATH } from '../../lib/linux/unix-socket.js'
import { type Prefix, formatPrefix } from '../../lib/subnet/prefix.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { makeDirectory } from './files.js'
import { StartError } from './start-error.js'

/**
 * The directories of one daemon. Whatever could collide lies in a directory
 * named for the etcd prefix, and below it one named for the Network, so that
 * several daemons with prefixes of their own share a host.
 *
 *   <state-dir>/coreos.com_network/{host-id,leases.json,journal}
 *   <state-dir>/coreos.com_network/10.5.0.0-16/device
 *   <run-dir>/coreos.com_network/{lock,status.sock,path.sock}
 */
export interface Places {
  readonly stateDir: string
  readonly runDir: string
  readonly statusSocket: string
  readonly hostIdFile: string
  readonly leaseCacheFile: string
  readonly journalFile: string
}

export function placesOf(flags: {
  'state-dir': string
  'run-dir': string
  'etcd-prefix': string
}): Places {
  const scope = scopeName(cleanPrefix(flags['etcd-prefix']))
  const stateDir = join(flags['state-dir'], scope)
  const runDir = join(flags['run-dir'], scope)
  return {
    stateDir,
    runDir,
    statusSocket: join(runDir, 'status.sock'),
    hostIdFile: join(stateDir, 'host-id'),
    leaseCacheFile: join(stateDir, 'leases.json'),
    journalFile: join(stateDir, 'journal'),
  }
}

/** One directory name per prefix: slashes become `_`, and what is not plain is written as %XX. */
export function scopeName(prefix: string): string {
  return prefix
    .split('/')
    .filter(part => part !== '')
    .map(part => encodeURIComponent(part).replaceAll('_', '%5F'))
    .join('_')
}

/** The name of a Network's directory: 10.5.0.0-16. */
export function networkDirectory(networks: readonly Prefix[]): string {
  return networks
    .map(network => formatPrefix(network).replace('/', '-').replaceAll(':', '.'))
    .join('_')
}

/** Makes the directories; only root looks into them, but into those around them everybody may. Throws StartError. */
export async function makePlaces(...directories: readonly string[]): Promise<void> {
  for (const directory of directories) {
    try {
      await makeDirectory(directory, 0o700)
    } catch (cause) {
      const why = (cause as Error).message
      throw new StartError(
        `cannot make the directory ${directory}: ${why}; make it writable or choose others with --state-dir and --run-dir`,
        { cause },
      )
    }
  }
}

/** Throws StartError for a socket whose name the kernel would cut, so that it meets another's. */
export function checkSocketName(path: string): void {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH) return
  throw new StartError(
    `${path} is longer than the ${MAX_SOCKET_PATH} bytes that the name of a socket may have; choose a shorter --run-dir or --etcd-prefix`,
  )
}

/** Keeps a second daemon for the same prefix away from this host. */
export function lockPlaces({ runDir }: Places): FileLock | undefined {
  return tryLockFile(join(runDir, 'lock'))
}

/** Keeps a second daemon from writing the same subnet file, which would tell Docker another subnet. */
export function lockSubnetFile(flags: {
  'run-dir': string
  'subnet-file': string
}): FileLock | undefined {
  return tryLockFile(subnetFileLock(flags))
}

export function subnetFileLock(flags: {
  'run-dir': string
  'subnet-file': string
}): string {
  const name = scopeName(resolve(flags['subnet-file']))
  return join(flags['run-dir'], `${name}.lock`)
}
