// npm run faults [-- --backend=udp,vxlan,host-gw] [WORD…]: breaks everything that can break
// about hosts of a network, one after the other, while their containers talk; and says what
// was lost and how long it took. With words, the faults whose names have one of them.
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
  const program = join(ROOT, 'dist/test/faults/main.js')
  const command = [process.execPath, '--enable-source-maps', program]
  const [file, ...args] = isolated([...command, ...process.argv.slice(2)])
  return await runInForeground(file, args)
})
