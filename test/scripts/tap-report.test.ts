import t from 'tap'
import { loadScript } from './load-script.js'

interface Report {
  passed: number
  failed: number
  push(line: string): void
  end(): void
}

const { TapReport } = (await loadScript('tap-report.mjs')) as {
  TapReport: new (show: (line: string) => void) => Report
}

function read(text: string): { passed: number; failed: number; shown: string } {
  const shown: string[] = []
  const report = new TapReport(line => shown.push(line))
  for (const line of text.split('\n')) report.push(line)
  report.end()
  return { passed: report.passed, failed: report.failed, shown: shown.join('\n') }
}

t.test('a file that passed takes one line', t => {
  const { passed, failed, shown } = read(`TAP version 14
# Subtest: dist/test/lib/a.test.js
    # Subtest: adds
        ok 1 - should be equal
        ok 2 - should be equal
        1..2
    ok 1 - adds # time=1ms
    ok 2 - outside of a subtest
    1..2
ok 1 - dist/test/lib/a.test.js # time=12.5ms
1..1
# { total: 3, pass: 3 }`)

  t.equal(passed, 3)
  t.equal(failed, 0)
  t.match(shown, 'ok dist/test/lib/a.test.js (3 passed, 12.5ms)')
  t.end()
})

t.test('a failed assertion counts once, and its file is shown in full', t => {
  const { passed, failed, shown } = read(`# Subtest: dist/test/lib/a.test.js
    # Subtest: adds
        ok 1 - fine
        not ok 2 - should be equal
          ---
          diff: |
            not ok 3 - text of an answer
          ...
        1..2
    not ok 1 - adds # time=1ms
    1..1
not ok 1 - dist/test/lib/a.test.js # time=12ms
  ---
  exitCode: 1
  ...
# Subtest: dist/test/lib/b.test.js
    ok 1 - fine
    1..1
ok 2 - dist/test/lib/b.test.js # time=3ms`)

  t.equal(passed, 2)
  t.equal(failed, 1)
  t.match(shown, /not ok 2 - should be equal\n.*---\n.*diff: \|/)
  t.match(shown, /exitCode: 1/)
  t.match(shown, 'ok dist/test/lib/b.test.js (1 passed, 3ms)')
  t.end()
})

t.test('a file that crashed counts as failed, though no assertion of it failed', t => {
  const { passed, failed } = read(`# Subtest: dist/test/lib/a.test.js
    ok 1 - fine
    1..1
not ok 1 - dist/test/lib/a.test.js # time=12ms
  ---
  signal: SIGSEGV
  ...`)

  t.equal(passed, 1)
  t.equal(failed, 1)
  t.end()
})
