import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import * as libc from '../../lib/linux/libc.js'

const AF_UNIX = 1
const SOCK_DGRAM_NONBLOCK = 2 | 0o4000
const LONGEST = 4096

/** What systemd listens on for a unit's notices (sd_notify(3)). */
export class NotifySocket {
  readonly path: string
  readonly #fd: number

  constructor(t: Test) {
    const directory = mkdtempSync(join(tmpdir(), 'notify-'))
    this.path = join(directory, 'notify')
    this.#fd = libc.socket(AF_UNIX, SOCK_DGRAM_NONBLOCK, 0)
    const name = Buffer.concat([Buffer.of(AF_UNIX, 0), Buffer.from(`${this.path}\0`)])
    if (libc.bind(this.#fd, name, name.length) !== 0) throw libc.lastError('bind')
    t.teardown(() => {
      libc.close(this.#fd)
      rmSync(directory, { recursive: true })
    })
  }

  /** The notices that came since the last call. */
  read(): string[] {
    const notices: string[] = []
    const bytes = Buffer.alloc(LONGEST)
    for (;;) {
      const length = libc.read(this.#fd, bytes, bytes.length)
      if (length < 0) return notices
      notices.push(bytes.toString('utf8', 0, length))
    }
  }
}
