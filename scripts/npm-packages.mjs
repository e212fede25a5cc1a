import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { COMPILER_PROGRAMS, missingPackages } from './debian-packages.mjs'
import { ROOT, ScriptError, run } from './command.mjs'

/** The one package that is compiled: an optional part of flanneld needs it. */
const COMPILED = 'node_modules/raw-socket'

/** Installs the packages of package-lock.json, unless they are there. Compiles nothing. */
export async function installNpmPackages() {
  checkNodeVersion()
  if (isComplete()) return
  console.log('Installing npm packages')
  await run(
    'npm',
    ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'],
    {
      cwd: ROOT,
    },
  )
}

/** Compiles raw-socket where there is a compiler and it is not done yet. */
export async function buildRawSocket() {
  if (existsSync(join(ROOT, COMPILED, 'build/Release/raw.node'))) return
  if (missingPackages(COMPILER_PROGRAMS).length > 0) return
  console.log('Compiling raw-socket')
  await run('npm', ['rebuild', 'raw-socket', '--loglevel=error'], {
    cwd: ROOT,
    env: nodeHeaders(),
  })
}

/** node-gyp downloads the headers of Node.js unless it is told where they are. */
function nodeHeaders() {
  const prefix = dirname(dirname(process.execPath))
  const here = existsSync(join(prefix, 'include/node/node_version.h'))
  return here ? { npm_package_config_node_gyp_nodedir: prefix } : {}
}

/** Whether every package of the lock is installed in its version; optional ones may be absent. */
function isComplete() {
  const wanted = readLock('package-lock.json')
  const installed = readLock('node_modules/.package-lock.json')
  return Object.entries(wanted)
    .filter(([path]) => path !== '')
    .every(([path, { version, optional }]) => {
      const there = installed[path]
      return there === undefined
        ? optional && path !== COMPILED
        : there.version === version
    })
}

function readLock(path) {
  try {
    return JSON.parse(readFileSync(join(ROOT, path), 'utf8')).packages
  } catch (error) {
    if (error.code === 'ENOENT') return {}
    throw error
  }
}

function checkNodeVersion() {
  const { engines } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const wanted = engines.node.replace('>=', '').split('.').map(Number)
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > wanted[0] || (major === wanted[0] && minor >= wanted[1])) return
  throw new ScriptError(
    `Node.js ${engines.node} is needed, this is ${process.versions.node}`,
  )
}
