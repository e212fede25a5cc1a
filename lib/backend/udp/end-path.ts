import { readFile, readdir } from 'node:fs/promises'
import type { Clock } from '../../subnet/clock.js'
import { PATH_TITLE } from './path-title.js'

/** A killed path is gone within milliseconds, unless the machine is very busy. */
const END_DEADLINE_MS = 5000
const END_POLL_MS = 10

/**
 * Ends a path that hangs or is ending, and waits until its device and its port
 * are free: two must not read one device, and none can open them before. The
 * number alone could be another process by now, so that is looked at first.
 */
export async function endPath(pid: number, clock: Clock): Promise<void> {
  const deadline = clock.now() + END_DEADLINE_MS
  for (;;) {
    const state = await stateOfPath(pid)
    if (state === 'gone' || clock.now() > deadline) return
    if (state === 'running') kill(pid)
    await clock.sleep(END_POLL_MS)
  }
}

/**
 * A process that ends loses its command line first, then its descriptors, and is
 * a zombie then; but its main thread may be one while others still hold them.
 */
async function stateOfPath(pid: number): Promise<'running' | 'ending' | 'gone'> {
  const read = async (name: string): Promise<string> =>
    await readFile(`/proc/${pid}/${name}`, 'latin1').catch(() => '')
  const commandLine = await read('cmdline')
  if (commandLine !== '') return commandLine.startsWith(PATH_TITLE) ? 'running' : 'gone'
  const [, state] = /\) (\w) /.exec(await read('stat')) ?? []
  if (state === undefined || state === 'X') return 'gone'
  const threads = await readdir(`/proc/${pid}/task`).catch(() => [])
  return state === 'Z' && threads.length <= 1 ? 'gone' : 'ending'
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // It ended since it was looked at.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
