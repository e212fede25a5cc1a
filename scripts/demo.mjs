// npm run demo: a laboratory of several hosts on this machine, in network namespaces.
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, ScriptError, main } from './command.mjs'
import { DAEMON_PROGRAMS, LAB_PROGRAMS, installPrograms } from './debian-packages.mjs'
import { runInForeground } from './foreground.mjs'

await main(async () => {
  if (process.getuid() !== 0) {
    throw new ScriptError('the demo makes network namespaces: run it as root')
  }
  await installPrograms([...DAEMON_PROGRAMS, ...LAB_PROGRAMS])
  await build()
  const flannelctl = join(ROOT, 'dist/cmd/flannelctl.js')
  const args = [flannelctl, 'lab', 'run', ...process.argv.slice(2)]
  return await runInForeground(process.execPath, args)
})
