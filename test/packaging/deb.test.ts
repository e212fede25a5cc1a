/** The package for Debian: installed, run, upgraded under traffic, removed, purged. */
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { mkdir, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { run } from '../../lib/linux/run.js'
import { openTestLab, startTraffic, stopTraffic } from '../netns/open-test-lab.js'

const SCRIPT = fileURLToPath(new URL('../../../scripts/deb.mjs', import.meta.url))

const directory = await mkdtemp(join(tmpdir(), 'flanneld-deb-test-'))
const root = join(directory, 'root')
t.teardown(() => rm(directory, { recursive: true }))

/** Makes the package in a version; the path of its file. */
async function make(version: string): Promise<string> {
  const args = [SCRIPT, '--no-build', `--version=${version}`, `--output=${directory}`]
  const text = await run(process.execPath, args, { timeoutMs: 120_000 })
  return text.trim()
}

/** dpkg with a root and a database of its own, in which no other package is installed. */
async function dpkg(...args: readonly string[]): Promise<string> {
  const options = ['--root', root, '--force-depends', '--force-script-chrootless']
  return await run('dpkg', [...options, ...args], { timeoutMs: 60_000, isCombined: true })
}

async function filesOfFlanneld(): Promise<string[]> {
  const all = await readdir(root, { recursive: true, withFileTypes: true })
  return all
    .filter(entry => !entry.isDirectory() && !entry.parentPath.includes('/var/lib/dpkg'))
    .map(entry => join(entry.parentPath, entry.name).slice(root.length))
    .filter(path => !path.startsWith('/var/log'))
}

const [first, second] = [await make('1.0.0'), await make('1.0.1')]

await t.test('it is installed', async t => {
  for (const part of ['info', 'updates', 'triggers'])
    await mkdir(join(root, 'var/lib/dpkg', part), { recursive: true })
  for (const file of ['status', 'available'])
    await writeFile(join(root, 'var/lib/dpkg', file), '')
  const said = await dpkg('--install', first)
  t.match(said, /not started yet\. Next:\n {2}1\. name etcd in \/etc\/default\/flanneld/)
  t.match(
    await dpkg('--status', 'flanneld'),
    /Status: install ok installed[^]*Depends: nodejs \(>= 20\), libc6/,
  )
  t.equal(await run(join(root, 'usr/bin/flannelctl'), ['--version']), '1.0.0\n')
  const files = await filesOfFlanneld()
  for (const path of [
    '/etc/default/flanneld',
    '/usr/lib/systemd/system/flanneld.service',
    '/usr/share/man/man8/flanneld.8.gz',
    '/usr/share/bash-completion/completions/flannelctl',
    '/usr/share/doc/flanneld/copyright',
    '/usr/share/doc/flanneld/examples/docker.service.d/flanneld.conf',
  ])
    t.ok(files.includes(path), path)
  t.equal(files.filter(path => /\/(tap|typescript|eslint)\//.test(path)).length, 0)
  const home = join(root, 'usr/lib/flanneld')
  const load = `const { COMMANDS } = await import('${home}/dist/cmd/flannelctl/commands.js')
    for (const { load } of Object.values(COMMANDS)) await load()
    await import('${home}/dist/cmd/flanneld/web-server.js')
    console.log('all of it')`
  const all = await run(process.execPath, ['--input-type=module', '--eval', load])
  t.equal(all, 'all of it\n', 'nothing is left out that a command loads')
  const packages = new Set(
    files.flatMap(path => /node_modules\/((@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []),
  )
  t.comment(`${packages.size} packages of npm`)
  const { size } = await stat(first)
  t.comment(`${(size / 1e6).toFixed(1)} MB, ${files.length} files`)
  const unit = await readFile(
    join(root, 'usr/lib/systemd/system/flanneld.service'),
    'utf8',
  )
  t.match(unit, 'ExecStart=/usr/bin/flanneld\n')
})

await t.test('it runs, and is upgraded without a lost packet', async t => {
  const lab = await openTestLab(t, { name: 't-deb', hosts: 2 })
  const [one, two] = [lab.host(1), lab.host(2)]
  await one.daemon.kill('SIGTERM')
  one.daemon.program = join(root, 'usr/bin/flanneld')
  await one.daemon.start()
  const traffic = await startTraffic(one, two)
  const settings = join(root, 'etc/default/flanneld')
  await writeFile(settings, 'FLANNELD_VERIFY=inner\n')
  await dpkg('--install', '--force-confold', second)
  // What postinst has systemd do.
  await one.daemon.kill('SIGTERM')
  await one.daemon.start()
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `${sent} packets, none is lost`)
  t.equal(
    await run(join(root, 'usr/bin/flanneld'), ['--help']).then(() => 'runs'),
    'runs',
  )
  t.equal(await run(join(root, 'usr/bin/flannelctl'), ['--version']), '1.0.1\n')
  t.equal(await readFile(settings, 'utf8'), 'FLANNELD_VERIFY=inner\n', 'settings stay')
})

await t.test('it goes', async t => {
  await mkdir(join(root, 'var/lib/flannel/x'), { recursive: true })
  await dpkg('--remove', 'flanneld')
  t.same(await filesOfFlanneld(), ['/etc/default/flanneld'], 'settings stay')
  await dpkg('--purge', 'flanneld')
  t.same(await filesOfFlanneld(), [])
  await t.rejects(stat(join(root, 'var/lib/flannel')), { code: 'ENOENT' })
})
