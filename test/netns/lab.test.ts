/** `flannelctl lab` as people type it, and what it leaves behind: nothing. */
import { type ChildProcess, spawn } from 'node:child_process'
import { type FileHandle, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { existingNamespaces } from '../../cmd/flannelctl/lab/namespaces.js'
import { namespacesOf } from '../../cmd/flannelctl/lab/topology.js'
import { waitFor } from '../helpers/wait-for.js'

const PROGRAM = fileURLToPath(new URL('../../cmd/flannelctl.js', import.meta.url))
const NAME = 't-cli'
const HOSTS = 2

const runDir = await mkdtemp(join(tmpdir(), 'lab-test-'))
t.teardown(async () => {
  await start('down').ended
  await rm(runDir, { recursive: true, force: true })
})

interface Ended {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** What it has printed so far. */
  stdout(): string
}

/** Starts `flannelctl lab` on this file's lab, below another command if there is one. */
function start(
  verb: string,
  args: readonly string[] = [],
  below: string[] = [],
): Started {
  const own = [`--name=${NAME}`, `--run-dir=${runDir}`]
  const hosts = verb === 'down' || verb === 'shell' ? [] : [`--hosts=${HOSTS}`]
  const lab = [process.execPath, PROGRAM, 'lab', verb, ...own, ...hosts, ...args]
  const command = ['--pdeathsig', 'KILL', '--', ...below, ...lab]
  const child = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk))
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk))
  const ended = new Promise<Ended>(resolve => {
    child.once('close', exitCode => {
      resolve({ exitCode, stdout, stderr })
    })
  })
  return { child, ended, stdout: () => stdout }
}

const NAMESPACES = namespacesOf(NAME, HOSTS)

/**
 * What tells a namespace from all others, also after its name is gone: its number,
 * which no other gets as long as its file is open.
 */
async function identities(): Promise<Map<number, FileHandle>> {
  const names = await existingNamespaces(NAMESPACES)
  const files = await Promise.all(names.map(name => open(`/run/netns/${name}`)))
  return new Map(
    await Promise.all(files.map(async file => [(await file.stat()).ino, file] as const)),
  )
}

/** The processes that live in one of the namespaces, whether those have a name or not. */
async function processesIn(namespaces: ReadonlyMap<number, unknown>): Promise<string[]> {
  const pids = (await readdir('/proc')).filter(entry => /^\d+$/.test(entry))
  const found = await Promise.all(
    pids.map(async pid => {
      const namespace = await stat(`/proc/${pid}/ns/net`).catch(() => undefined)
      return namespace !== undefined && namespaces.has(namespace.ino) ? [pid] : []
    }),
  )
  return found.flat()
}

async function nothingIsLeft(
  t: Test,
  namespaces: ReadonlyMap<number, FileHandle>,
): Promise<void> {
  t.same(await existingNamespaces(NAMESPACES), [], 'no namespace')
  t.same(await processesIn(namespaces), [], 'no process')
  for (const file of namespaces.values()) await file.close()
  t.same(await readdir(runDir).catch(() => []), [], 'no file')
}

t.test('lab run shows a working network and removes it', async t => {
  const demo = start('run')
  await waitFor('the daemons are ready', () => demo.stdout().includes('are ready'))
  const namespaces = await identities()

  const { exitCode, stdout, stderr } = await demo.ended

  t.equal(exitCode, 0, stderr)
  t.equal(stderr, '')
  t.equal(namespaces.size, NAMESPACES.length)
  t.match(stdout, /host1 +192\.168\.77\.11 +10\.5\.\d+\.0\/24/)
  t.match(stdout, /c1 → c2: [\d.]+ [GM]bit\/s/)
  t.match(stdout, /same subnet as before/)
  t.match(stdout, /Everything worked, and everything is removed again/)
  t.notOk(stdout.includes('\u001b'), 'no colours where there is no terminal')
  await nothingIsLeft(t, namespaces)
})

for (const [when, words] of [
  ['while it is built', 'Each is a network namespace'],
  ['in the middle', 'are ready'],
] as const) {
  t.test(`lab run removes everything when it is interrupted ${when}`, async t => {
    const demo = start('run')
    await waitFor(`it says: ${words}`, () => demo.stdout().includes(words))
    const namespaces = await identities()

    demo.child.kill('SIGINT')
    const { exitCode, stderr } = await demo.ended

    t.equal(exitCode, 130)
    t.equal(stderr, '', 'what its user wanted is no failure')
    await nothingIsLeft(t, namespaces)
  })
}

t.test('lab up leaves a network to work in until lab down', async t => {
  const up = await start('up').ended
  t.equal(up.exitCode, 0, up.stderr)
  t.match(up.stdout, `flannelctl lab shell --name ${NAME} host1`)
  const namespaces = await identities()

  const [again, addresses, failing, unknown] = await Promise.all([
    start('up').ended,
    start('shell', ['c1', '--', 'ip', '-4', 'address']).ended,
    start('shell', ['host2', '--', 'sh', '-c', 'exit 7']).ended,
    start('shell', ['host9', '--', 'true']).ended,
  ])
  t.match(again, { exitCode: 1, stderr: /is up already/ })
  t.match(addresses, { exitCode: 0, stdout: /inet 10\.5\.\d+\.2\/24/ })
  t.equal(failing.exitCode, 7)
  t.match(unknown, { exitCode: 1, stderr: /has no host9/ })

  t.match(await start('down').ended, { exitCode: 0, stdout: /is removed/ })
  await nothingIsLeft(t, namespaces)
  t.match(await start('down').ended, { exitCode: 0, stdout: /There is no lab/ })
})

t.test('lab down removes what a killed lab up has left', async t => {
  const up = start('up')
  await waitFor(
    'the lab is half built',
    async () => (await existingNamespaces(NAMESPACES)).length > 1,
  )
  up.child.kill('SIGSTOP')
  const refused = await start('down').ended
  up.child.kill('SIGKILL')
  await up.ended
  const namespaces = await identities()

  const down = await start('down').ended

  t.match(refused, { exitCode: 1, stderr: /in the hands of another flannelctl/ })
  t.equal(down.exitCode, 0, down.stderr)
  await nothingIsLeft(t, namespaces)
})

t.test('a machine that lacks something is told what, and nothing is made', async t => {
  const below = (script: string): string[] => {
    return ['unshare', '--mount', 'sh', '-c', `${script} && exec "$@"`, 'sh']
  }

  const [noTun, noEtcd, noSpace, noVerb] = await Promise.all([
    start('run', [], below('mount -t tmpfs tmpfs /dev/net')).ended,
    start('run', [], below('mount --bind /dev/null "$(command -v etcd)"')).ended,
    start('run', ['--network=192.168.77.0/24']).ended,
    start('sideways').ended,
  ])

  t.match(noTun, { exitCode: 1, stderr: /\/dev\/net\/tun.*modprobe tun/ })
  t.match(noEtcd, { exitCode: 1, stderr: /apt-get install etcd-server\n$/ })
  t.match(noSpace, { exitCode: 1, stderr: /overlaps 192\.168\.77\.0\/24/ })
  t.match(noVerb, { exitCode: 2, stderr: /no lab sideways/ })
  await nothingIsLeft(t, new Map())
})
