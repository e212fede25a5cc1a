/** What comes with us: who may use it, what it runs when it is installed, how much it is. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { run } from '../../lib/linux/run.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))

/** That go with Apache-2.0, and ask for no more than to be named. */
const LICENSES = ['0BSD', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'MIT']

/** Of the packages that a host gets, with their bindings for its architecture. */
const MOST_MEGABYTES = 60
const MOST_PACKAGES = 100

interface Package {
  readonly license?: string
  readonly dev?: boolean
  readonly devOptional?: boolean
  readonly hasInstallScript?: boolean
}

async function shipped(): Promise<[string, Package][]> {
  const text = await readFile(`${ROOT}/node_modules/.package-lock.json`, 'utf8')
  const { packages } = JSON.parse(text) as { packages: Record<string, Package> }
  return Object.entries(packages).filter(
    ([, { dev = false, devOptional = false }]) => !dev && !devOptional,
  )
}

t.test('licences', async t => {
  for (const [path, { license = 'none' }] of await shipped())
    t.ok(LICENSES.includes(license), `${path}: ${license}`)
})

t.test('what runs when they are installed: only what package.json allows', async t => {
  const scripts = (await shipped()).filter(([, { hasInstallScript }]) => hasInstallScript)
  t.strictSame(
    scripts.map(([path]) => path),
    ['node_modules/koffi', 'node_modules/protobufjs', 'node_modules/raw-socket'],
  )
  const { allowScripts } = JSON.parse(await readFile(`${ROOT}/package.json`, 'utf8')) as {
    allowScripts: object
  }
  t.strictSame(allowScripts, { 'raw-socket': true }, 'koffi brings its binding')
})

t.test('how much it is', async t => {
  const paths = (await shipped()).map(([path]) => `${ROOT}/${path}`)
  t.ok(paths.length <= MOST_PACKAGES, `${paths.length} packages`)
  const flags = ['--total', '--summarize', '--block-size=1M']
  const text = await run('du', [...flags, ...paths], { timeoutMs: 60_000 })
  const [, total = ''] = /^(\d+)\ttotal$/m.exec(text) ?? []
  t.ok(Number(total) <= MOST_MEGABYTES, `${total} MB`)
})
