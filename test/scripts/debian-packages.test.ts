import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadScript } from './load-script.js'

const { missingPackages } = (await loadScript('debian-packages.mjs')) as {
  missingPackages: (programs: readonly string[], path: string) => string[]
}

t.test('each missing program is named by its package, and each package once', t => {
  const empty = t.testdir()

  const packages = missingPackages(['etcd', 'ip', 'bridge', 'dockerd'], empty)

  t.same(packages, ['etcd-server', 'iproute2', 'docker.io'])
  t.end()
})

t.test('a program that can be run anywhere on the path is not missing', async t => {
  const directory = t.testdir()
  await writeFile(join(directory, 'etcd'), '#!/bin/sh\n', { mode: 0o755 })

  t.same(missingPackages(['etcd'], `/nowhere:${directory}`), [])

  await chmod(join(directory, 'etcd'), 0o644)
  t.same(missingPackages(['etcd'], directory), ['etcd-server'])
})
