import { mkdir, readFile, readdir, rm, rmdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { type FileLock, tryLockFile } from '../../../lib/linux/file-lock.js'
import { CommandFailure } from '../command.js'
import { removeNamespaces } from './namespaces.js'
import { LAB_NAME, MAX_HOSTS, namespacesOf } from './topology.js'

export const DEFAULT_RUN_DIR = '/run/flannel-lab'

/**
 * What a lab wrote down about itself before it made anything, so that it can be
 * removed whatever became of the process that built it.
 *
 *   <run-dir>/<name>/lab.json   this record
 *   <run-dir>/<name>/lock       held while a process builds or runs the lab
 *   <run-dir>/<name>/host1/     subnet.env, log, state and sockets of a host
 */
export interface LabRecord {
  /** `run` belongs to a process and is rubbish without it; `up` is there to stay. */
  readonly kind: 'run' | 'up'
  readonly network: string
  /** Hosts 1 to this one may exist. */
  readonly hosts: number
}

const schema = z.object({
  kind: z.enum(['run', 'up']),
  network: z.string(),
  hosts: z.int().min(1).max(MAX_HOSTS),
})

export interface LabPlace {
  readonly name: string
  readonly directory: string
}

/** Throws CommandFailure for a name that cannot be part of others. */
export function placeOfLab(runDir: string, name: string): LabPlace {
  if (!LAB_NAME.test(name)) {
    throw new CommandFailure(
      `${JSON.stringify(name)} cannot be the name of a lab: up to 20 small letters, digits and dashes`,
    )
  }
  return { name, directory: join(runDir, name) }
}

/** The record of a lab; undefined when there is none. Throws CommandFailure when it is unreadable. */
export async function readRecord({
  directory,
}: LabPlace): Promise<LabRecord | undefined> {
  const path = join(directory, 'lab.json')
  try {
    return schema.parse(JSON.parse(await readFile(path, 'utf8')))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new CommandFailure(
      `${path} is not a record of a lab; remove ${directory} by hand`,
      {
        cause: error,
      },
    )
  }
}

export async function writeRecord(
  { directory }: LabPlace,
  record: LabRecord,
): Promise<void> {
  await writeFile(join(directory, 'lab.json'), `${JSON.stringify(record)}\n`, {
    mode: 0o600,
  })
}

/** Makes this process the only one that builds or removes the lab. Throws CommandFailure. */
export async function lockLab({ name, directory }: LabPlace): Promise<FileLock> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const lock = tryLockFile(join(directory, 'lock'))
  if (lock === undefined) {
    throw new CommandFailure(
      `lab ${name} is in the hands of another flannelctl; wait for it, stop it with Ctrl-C, or choose another --name`,
    )
  }
  return lock
}

/** Removes everything that the record names, and all but the lock. The caller has the lock. */
export async function clearLab(place: LabPlace): Promise<void> {
  const record = await readRecord(place)
  if (record !== undefined) await removeNamespaces(namespacesOf(place.name, record.hosts))
  for (const entry of await readdir(place.directory))
    if (entry !== 'lock')
      await rm(join(place.directory, entry), { recursive: true, force: true })
}

/** Removes every trace of the lab. The caller has the lock, whose file goes too. */
export async function removeLab(place: LabPlace): Promise<void> {
  await clearLab(place)
  await rm(place.directory, { recursive: true, force: true })
  // The last one turns off the light; others may be there.
  await rmdir(dirname(place.directory)).catch(() => undefined)
}
