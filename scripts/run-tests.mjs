// node scripts/run-tests.mjs FILE…: runs compiled tests, some at a time, and prints TAP 14
// with a subtest for each. tap's own runner would load its hooks into every Node program
// that a test starts, which makes each start take more than twice as long.
import { createInterface } from 'node:readline'
import { clearTimeout, setTimeout } from 'node:timers'
import { exitCodeOf, main, start } from './command.mjs'

/** Most tests wait for a kernel or an etcd half of their time. */
const JOBS = 3

/** Of one file, for tap, which then says what was going on; and a little later for us. */
const LIMIT_S = 600
const GRACE_S = 30

await main(async () => {
  const files = process.argv.slice(2)
  const waiting = files.entries()
  let exitCode = 0
  const work = async () => {
    for (const [index, file] of waiting) {
      const { lines, isOk, ms } = await runFile(file)
      if (!isOk) exitCode = 1
      const point = `${isOk ? 'ok' : 'not ok'} ${index + 1} - ${file} # time=${ms}ms`
      const block = [`# Subtest: ${file}`, ...lines.map(line => `    ${line}`), point]
      process.stdout.write(`${block.join('\n')}\n`)
    }
  }
  console.log(`TAP version 14\n1..${files.length}`)
  await Promise.all(Array.from({ length: JOBS }, work))
  return exitCode
})

async function runFile(file) {
  const started = Date.now()
  const child = start(process.execPath, ['--enable-source-maps', file], {
    env: { TAP_TIMEOUT: LIMIT_S },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), (LIMIT_S + GRACE_S) * 1000)
  const lines = []
  createInterface({ input: child.stdout }).on('line', line => lines.push(line))
  const exitCode = await exitCodeOf(child)
  clearTimeout(timer)
  const ms = Date.now() - started
  if (exitCode !== 0) lines.push(`# ${file} ended with exit code ${exitCode}`)
  return { lines, isOk: exitCode === 0, ms }
}
