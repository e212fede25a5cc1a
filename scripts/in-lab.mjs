// npm run faults | soak | churn | scale: programs of test/faults, which make hosts of network
// namespaces and break what can break about them. Each says with a wrong flag what it takes.
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, ScriptError, main } from './command.mjs'
import {
  DAEMON_PROGRAMS,
  LAB_PROGRAMS,
  TEST_PROGRAMS,
  installPrograms,
} from './debian-packages.mjs'
import { runInForeground } from './foreground.mjs'
import { isolated } from './isolated.mjs'

await main(async () => {
  if (process.getuid() !== 0)
    throw new ScriptError('hosts are network namespaces: run it as root')
  await installPrograms([...DAEMON_PROGRAMS, ...LAB_PROGRAMS, ...TEST_PROGRAMS])
  await build()
  const [name, ...args] = process.argv.slice(2)
  const program = join(ROOT, 'dist/test/faults', `${name}.js`)
  const command = [process.execPath, '--enable-source-maps', program, ...args]
  const [file, ...words] = isolated(command)
  return await runInForeground(file, words)
})
