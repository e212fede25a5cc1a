/**
 * npm run test:node [-- VERSION…]: the unit tests, and hosts that carry packets, on other
 * versions of Node.js (22 and 24 unless given), which the registry of npm has as packages.
 * raw-socket is compiled for one version alone: what needs it is not among these tests.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT, main, run } from './command.mjs'

const VERSIONS = ['22', '24']

/** Of what needs root: leases in a real etcd, and each kind of packet path. */
const TESTS = ['netns/lab.', 'netns/udp.', 'netns/vxlan.', 'etcd/leases', 'cloud-config']

await main(async () => {
  const given = process.argv.slice(2)
  const directory = mkdtempSync(join(tmpdir(), 'flanneld-node-'))
  try {
    for (const version of given.length === 0 ? VERSIONS : given) {
      const place = join(directory, version)
      const name = `node-linux-${process.arch}@${version}`
      const options = ['--no-save', '--no-audit', '--no-fund', '--loglevel=error']
      await run('npm', ['install', '--prefix', place, ...options, name], {
        cwd: directory,
      })
      const node = join(place, `node_modules/node-linux-${process.arch}/bin/node`)
      await run(node, ['--version'])
      await run(node, ['scripts/test.mjs', '--unit'], { cwd: ROOT })
      await run(node, ['scripts/test.mjs', ...TESTS], { cwd: ROOT })
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
})
