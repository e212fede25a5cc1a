// npm run simulate -- --seeds N: networks of hosts in virtual time, with everything going wrong.
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, main } from './command.mjs'
import { runInForeground } from './foreground.mjs'

await main(async () => {
  await build()
  const program = join(ROOT, 'dist/test/simulator/main.js')
  return await runInForeground(process.execPath, [program, ...process.argv.slice(2)])
})
