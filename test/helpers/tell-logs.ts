import { readFile } from 'node:fs/promises'
import type { Test } from 'tap'

const LINES = 40

/** Prints the end of each log when the test has failed. For a teardown, before the files go. */
export async function tellLogs(t: Test, files: readonly string[]): Promise<void> {
  if (t.passing()) return
  for (const file of files) {
    const text = await readFile(file, 'utf8').catch(String)
    const lines = text.trimEnd().split('\n').slice(-LINES)
    t.comment([`the end of ${file}`, ...lines].join('\n'))
  }
}
