import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/**
 * A directory for processes that write into it until the teardown which ends them, if that
 * is asked for later. That of t.testdir() is removed before all teardowns when it was asked
 * for before them, and emptied by a second call. Its path is short enough for sockets.
 */
export function ownDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'test-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  return directory
}
