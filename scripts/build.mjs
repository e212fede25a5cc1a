import { chmodSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT, main, run } from './command.mjs'
import { buildRawSocket, installNpmPackages } from './npm-packages.mjs'

const COMMANDS = ['dist/cmd/flanneld.js', 'dist/cmd/flannelctl.js']

/** Compiles everything, tests included, to dist/. */
export async function build() {
  await installNpmPackages()
  await run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc')], {
    cwd: ROOT,
  })
  for (const command of COMMANDS.map(path => join(ROOT, path))) {
    if (existsSync(command)) chmodSync(command, 0o755)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(async () => {
    await build()
    await buildRawSocket()
  })
}
