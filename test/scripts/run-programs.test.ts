import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { loadScript } from './load-script.js'

const { isolated } = (await loadScript('isolated.mjs')) as {
  isolated: (command: readonly string[]) => string[]
}
const FOREGROUND = new URL('../../../scripts/foreground.mjs', import.meta.url).href

/** A program that counts SIGINTs, and ends with their number a second after the first. */
const COUNTER = `let count = 0
  process.on('SIGINT', () => { if (count++ === 0) setTimeout(() => process.exit(count), 1000) })
  setInterval(() => {}, 1000)
  console.log('counts ' + process.pid)`

/** Runs the counter as `npm start` runs flanneld, and resolves once it counts. */
async function runCounter(): Promise<{ outer: ChildProcess; pid: number }> {
  const outer = spawn(
    process.execPath,
    [
      '--input-type=module',
      '--eval',
      `import { runInForeground } from ${JSON.stringify(FOREGROUND)}
       process.exitCode = await runInForeground(process.execPath, ['--eval', ${JSON.stringify(COUNTER)}])`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  for await (const line of createInterface({ input: outer.stdout })) {
    if (line.startsWith('counts ')) return { outer, pid: Number(line.split(' ')[1]) }
  }
  throw new Error('the counter did not start')
}

t.test(
  'a Ctrl-C that comes twice, from the terminal and from npm, counts once',
  async t => {
    const codes: (number | null)[] = []
    // A keystroke that a busy machine is late with is another one: it is tried again.
    while (codes.length < 5 && codes.at(-1) !== 1) {
      const { outer } = await runCounter()

      outer.kill('SIGINT')
      outer.kill('SIGINT')
      await sleep(50)
      outer.kill('SIGINT')

      const [exitCode] = (await once(outer, 'close')) as [number | null]
      codes.push(exitCode)
    }
    t.equal(codes.at(-1), 1, codes.join())
  },
)

t.test('a program in the foreground ends with the script that is killed', async t => {
  const { outer, pid } = await runCounter()

  outer.kill('SIGKILL')

  while (isAlive(pid)) await sleep(20)
  t.pass('it is gone')
})

t.test('what an isolated command leaves behind ends with it', async t => {
  const script = `ip netns add left; setsid sleep 1000 & ip netns; ip -br link; echo made; sleep 1000`
  const [program = '', ...args] = isolated(['sh', '-c', script])
  const outer = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => outer.kill('SIGKILL'))
  const said: string[] = []
  for await (const line of createInterface({ input: outer.stdout })) {
    said.push(line)
    if (line === 'made') break
  }
  const inside = descendants(outer.pid ?? 0)
  t.ok(inside.length >= 2, 'a shell and what it runs')

  outer.kill('SIGKILL')

  while (inside.some(isAlive)) await sleep(20)
  t.match(said[0], /^left/, 'it has a list of namespaces of its own')
  t.notMatch(said.join('\n'), /eth|veth/, 'and none of the interfaces of this machine')
  t.notMatch(readFileSync('/proc/self/mountinfo', 'utf8'), '/run/netns/left')
})

/** A zombie is gone for all that matters. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

function descendants(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter(Boolean)
    .map(Number)
  return children.flatMap(child => [child, ...descendants(child)])
}
