import { chmod, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Writes a file so that a reader sees the old text or the new, also after a
 * power cut: temporary file, fsync, rename. The mode does not depend on the umask.
 */
export async function writeFileAtomic(
  path: string,
  text: string,
  mode: number,
): Promise<void> {
  try {
    await makeDirectory(dirname(path), 0o755)
    await replaceFile(path, text, mode)
  } catch (cause) {
    throw new FileError(`cannot write ${path}`, cause as NodeJS.ErrnoException)
  }
}

/** The system's refusal, with the file that it was about: a full disk names none. */
export class FileError extends Error {
  override readonly name = 'FileError'
  readonly code: string | undefined

  constructor(what: string, cause: NodeJS.ErrnoException) {
    super(`${what}: ${cause.message}`, { cause })
    this.code = cause.code
  }
}

/**
 * Makes a directory unless it is there, and those around it, which everybody may
 * look into. The mode does not depend on the umask. (Node's own way of making
 * several hides why it fails, and goes round in circles below /proc.)
 */
export async function makeDirectory(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const isThere = await stat(path).then(
      found => found.isDirectory(),
      () => false,
    )
    if (isThere) return
    if (code !== 'ENOENT' || dirname(path) === path) throw error
    await makeDirectory(dirname(path), 0o755)
    await mkdir(path)
  }
  await chmod(path, mode)
}

async function replaceFile(path: string, text: string, mode: number): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`
  try {
    // What lies there is of a process that died, or a link that leads elsewhere.
    await rm(temporary, { force: true })
    const file = await open(temporary, 'wx', mode)
    try {
      await file.chmod(mode)
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/** The text of a file, or undefined when there is none. */
export async function readFileIfAny(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
