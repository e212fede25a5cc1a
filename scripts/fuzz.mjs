// npm run fuzz [-- --seconds=N] [--seed=N] [NAME…]: what foreign bytes do to whatever reads them.
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, main } from './command.mjs'
import { runInForeground } from './foreground.mjs'

await main(async () => {
  await build()
  const program = join(ROOT, 'dist/test/fuzz/main.js')
  const args = ['--enable-source-maps', program, ...process.argv.slice(2)]
  return await runInForeground(process.execPath, args)
})
