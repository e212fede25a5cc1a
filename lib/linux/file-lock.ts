import { closeSync, openSync } from 'node:fs'
import * as libc from './libc.js'

// include/uapi/asm-generic/fcntl.h, flock(2)
const LOCK_EX = 2
const LOCK_NB = 4

export interface FileLock {
  release(): void
}

/**
 * Takes the exclusive lock of a file, creating it, or returns undefined when
 * another process has it. The kernel releases it when the holder ends, however
 * it ends.
 */
export function tryLockFile(path: string): FileLock | undefined {
  const fd = openSync(path, 'a', 0o600)
  if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) {
    return {
      release: () => {
        closeSync(fd)
      },
    }
  }
  const error = libc.lastError(`lock ${path}`)
  closeSync(fd)
  if (error.errno === libc.EAGAIN) return undefined
  throw error
}
