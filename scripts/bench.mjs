// npm run bench -- NAME: measures, and prints a table. Nothing else should run meanwhile.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, ScriptError, main } from './command.mjs'
import { LAB_PROGRAMS, TEST_PROGRAMS, installPrograms } from './debian-packages.mjs'
import { runInForeground } from './foreground.mjs'

/** What the programs in bench/ share. */
const SHARED = ['table']

await main(async () => {
  const names = readdirSync(join(ROOT, 'bench'))
    .filter(file => file.endsWith('.ts'))
    .map(file => file.slice(0, -3))
    .filter(name => !SHARED.includes(name))
  const [name, ...args] = process.argv.slice(2)
  if (!names.includes(name))
    throw new ScriptError(`usage: npm run bench -- ${names.join(' | ')}`)
  await installPrograms([...LAB_PROGRAMS, ...TEST_PROGRAMS])
  await build()
  const program = join(ROOT, 'dist/bench', `${name}.js`)
  return await runInForeground(process.execPath, ['--expose-gc', program, ...args])
})
