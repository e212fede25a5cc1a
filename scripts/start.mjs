// npm start: flanneld on this machine, with an etcd of its own unless one is named.
import { join } from 'node:path'
import { build } from './build.mjs'
import { ROOT, ScriptError, main } from './command.mjs'
import { DAEMON_PROGRAMS, installPrograms } from './debian-packages.mjs'
import { runInForeground } from './foreground.mjs'

const ALONE = ['--embedded-etcd', '--init-network', '10.5.0.0/16']

await main(async () => {
  if (process.getuid() !== 0) {
    throw new ScriptError("flanneld changes this machine's network: run it as root")
  }
  await installPrograms(DAEMON_PROGRAMS)
  await build()
  const given = process.argv.slice(2)
  const hasEtcd =
    'FLANNELD_ETCD_ENDPOINTS' in process.env ||
    given.some(word => /^--?etcd-endpoints(=|$)/.test(word))
  const args = [...(hasEtcd ? [] : ALONE), ...given]
  return await runInForeground(process.execPath, [
    join(ROOT, 'dist/cmd/flanneld.js'),
    ...args,
  ])
})
