import { closeSync, fstatSync, readSync, writeSync } from 'node:fs'
import * as libc from './libc.js'

const MFD_CLOEXEC = 1

/** A file without a name that holds some bytes, to be handed to another process. The caller closes it. */
export function openMemoryFile(bytes: Uint8Array): number {
  const fd = libc.memfdCreate('flanneld', MFD_CLOEXEC)
  if (fd < 0) throw libc.lastError('make a memory file')
  for (let at = 0; at < bytes.length;)
    at += writeSync(fd, bytes, at, bytes.length - at, at)
  return fd
}

/** The bytes of a memory file that another process handed over; closes it. */
export function takeMemoryFile(fd: number): Buffer {
  try {
    const bytes = Buffer.alloc(fstatSync(fd).size)
    readSync(fd, bytes, 0, bytes.length, 0)
    return bytes
  } finally {
    closeSync(fd)
  }
}
