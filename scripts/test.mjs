// npm test: everything, in namespaces of its own; npm test WORD…: the files whose paths have
// one of the words. npm run test:unit (--unit): what needs neither root nor etcd.
import { readdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { build } from './build.mjs'
import {
  ROOT,
  ScriptError,
  exitCodeOf,
  main,
  start,
  untilInterrupted,
} from './command.mjs'
import {
  COMPILER_PROGRAMS,
  DAEMON_PROGRAMS,
  LAB_PROGRAMS,
  TEST_PROGRAMS,
  installPrograms,
} from './debian-packages.mjs'
import { isolated } from './isolated.mjs'
import { buildRawSocket } from './npm-packages.mjs'
import { TapReport } from './tap-report.mjs'

/** More than twice what they take on two cores that nothing else uses. */
const LIMIT_MS = 20 * 60_000

/** Folders of tests that need root, or programs beyond Node.js. */
const NEED_MORE = ['docker', 'etcd', 'faults', 'netns', 'packaging', 'scripts']

/** That of tests for a kernel that not every machine has: npm run test:uml. */
const OTHER_KERNEL = 'uml'

/** A run that was interrupted, as a shell counts SIGINT. */
const EXIT_INTERRUPTED = 130

await main(async () =>
  process.argv.includes('--unit') ? await testUnits() : await testAll(),
)

async function testUnits() {
  await build()
  return await runTap(
    command => command,
    testFiles(folder => !NEED_MORE.includes(folder)),
  )
}

async function testAll() {
  if (process.getuid() !== 0) {
    throw new ScriptError(
      'most tests make network namespaces: run it as root, or npm run test:unit',
    )
  }
  await installPrograms([
    ...DAEMON_PROGRAMS,
    ...LAB_PROGRAMS,
    ...TEST_PROGRAMS,
    ...COMPILER_PROGRAMS,
  ])
  await build()
  await buildRawSocket()
  return await runTap(isolated, testFiles())
}

/**
 * The compiled tests, by their sources: dist may hold what is deleted since. The
 * longest are first, so that none of them runs on alone at the end.
 */
function testFiles(isWanted = () => true) {
  const files = readdirSync(join(ROOT, 'test'), { recursive: true })
    .filter(path => path.endsWith('.test.ts'))
    .filter(path => path.split('/')[0] !== OTHER_KERNEL)
    .filter(path => isWanted(path.split('/')[0]))
    .map(path => join('dist/test', path.replace(/ts$/, 'js')))
  const words = process.argv.slice(2).filter(word => !word.startsWith('--'))
  const isAsked = file => words.length === 0 || words.some(word => file.includes(word))
  const isLong = file => /\/(simulator|machine)\.test\.js$/.test(file)
  const asked = files.filter(isAsked)
  if (asked.length === 0)
    throw new ScriptError(`no test has ${words.join(' or ')} in its path`)
  return [...asked.filter(isLong), ...asked.filter(file => !isLong(file))]
}

/** Runs these tests and says how many assertions passed and failed. */
async function runTap(wrap, files) {
  const report = new TapReport(console.log)
  const temporary = await mkdtemp(join(tmpdir(), 'flanneld-'))
  const runner = join(ROOT, 'scripts/run-tests.mjs')
  const [program, ...args] = wrap([process.execPath, runner, ...files])
  const { exitCode, ending } = await untilInterrupted(async interrupted => {
    const ends = AbortSignal.any([interrupted, AbortSignal.timeout(LIMIT_MS)])
    const child = start(program, args, {
      cwd: ROOT,
      env: { TMPDIR: temporary },
      stdio: ['ignore', 'pipe', 'inherit'],
      // Ctrl-C is for us: the tests end by our hand, all at once.
      detached: true,
    })
    ends.addEventListener('abort', () => child.kill('SIGKILL'), { once: true })
    createInterface({ input: child.stdout }).on('line', line => {
      report.push(line)
    })
    const code = await exitCodeOf(child)
    const why = interrupted.aborted ? 'interrupted' : 'not done within the time limit'
    return { exitCode: code, ending: ends.aborted ? why : undefined }
  })
  report.end()
  await rm(temporary, { recursive: true, force: true })
  if (ending !== undefined) console.log(`The tests were ${ending}.`)
  const failed = report.failed + (exitCode !== 0 && report.failed === 0 ? 1 : 0)
  console.log(`${report.passed} passed, ${failed} failed`)
  if (ending === 'interrupted') return EXIT_INTERRUPTED
  return failed === 0 ? 0 : 1
}
