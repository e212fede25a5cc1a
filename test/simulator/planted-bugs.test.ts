/** The simulator is worth what it finds: mistakes planted on purpose, each within a stated number of seeds. */
import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { PLANTED_BUGS, type PlantedBug } from './planted-bugs.js'

const PROGRAM = fileURLToPath(new URL('./main.js', import.meta.url))
const PLANT = new URL('./plant-bug.js', import.meta.url).href

/** What the simulator says with a bug planted. */
async function simulateWith(bug: PlantedBug): Promise<string> {
  const args = [
    '--import',
    PLANT,
    PROGRAM,
    '--seeds',
    String(bug.seeds),
    '--first',
    '--from',
    String(bug.from ?? 1),
  ]
  const env = { PATH: process.env['PATH'], PLANTED_BUG: JSON.stringify(bug) }
  const command = ['--pdeathsig', 'KILL', '--', process.execPath, ...args]
  const child = spawn('setpriv', command, { env, stdio: 'pipe' })
  child.stdin.end()
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  return stdout + stderr
}

t.setTimeout(600_000)

for (const bug of PLANTED_BUGS) {
  t.test(`found: ${bug.name}`, { timeout: 300_000 }, async t => {
    const output = await simulateWith(bug)

    const [, seed, what] = /^seed (\d+): \S+ (.*)$/m.exec(output) ?? []
    t.ok(seed, output)
    t.comment(`by seed ${seed ?? ''}: ${what ?? ''}`)
  })
}
