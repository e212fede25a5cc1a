import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'

const FLANNELD = fileURLToPath(new URL('../../cmd/flanneld.js', import.meta.url))

/** A host's only interface, with a way out. */
const UNDERLAY = [
  'ip link set lo up',
  'ip link add eth0 type veth peer name eth1',
  'ip address add 192.0.2.1/24 dev eth0',
  'ip link set eth0 up',
  'ip link set eth1 up',
  'ip route add default via 192.0.2.254',
]

interface Run {
  readonly child: ChildProcess
  /** Resolves once the output has this text; rejects when it ends without. */
  readonly says: (text: string) => Promise<void>
  readonly ended: Promise<{ exitCode: number | null; output: string }>
}

/** Runs flanneld in a network namespace of its own, which ends with it. */
function runFlanneld(
  t: Test,
  directory: string,
  setup: readonly string[],
  args: readonly string[],
): Run {
  const places = ['state-dir', 'run-dir'].map(name => `--${name}=${directory}/${name}`)
  const flags = [...places, `--subnet-file=${directory}/subnet.env`, ...args]
  const script = `${['set -e', ...setup].join('\n')}\nexec "$@"`
  const inside = ['sh', '-c', script, 'sh', process.execPath, FLANNELD, ...flags]
  const child = spawn(
    'setpriv',
    ['--pdeathsig', 'KILL', '--', 'unshare', '--net', '--', ...inside],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1' },
    },
  )
  let output = ''
  const waiting = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
      for (const look of waiting) look()
    })
  }
  const ended = new Promise<{ exitCode: number | null; output: string }>(resolve => {
    child.once('close', exitCode => {
      resolve({ exitCode, output })
    })
  })
  t.teardown(async () => {
    // Not SIGKILL: the packet path outlives a daemon that is killed.
    child.kill('SIGINT')
    await ended
  })
  const says = async (text: string): Promise<void> => {
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        if (!output.includes(text)) return
        waiting.delete(look)
        resolve()
      }
      waiting.add(look)
      look()
      void ended.then(() => {
        reject(new Error(`flanneld ended without saying ${text}: ${output}`))
      })
    })
  }
  return { child, says, ended }
}

/** Not tap's own, whose long path leaves no room for a socket's name. */
function makeDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'first-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true, force: true })
  })
  return directory
}

/** The lines of a log that do not begin as a line of the log does. */
function strayLines(output: string): string[] {
  return output.split('\n').filter(line => !/^$|^\d\d:\d\d:\d\d [A-Z]+ /.test(line))
}

t.test(
  'the first start needs no etcd, no configuration and no second Ctrl-C',
  async t => {
    const directory = makeDirectory(t)
    const args = ['--embedded-etcd', '--init-network', '10.5.0.0/16']
    const { child, says, ended } = runFlanneld(t, directory, UNDERLAY, args)

    await says('flanneld is ready: this host has subnet 10.5.')
    child.kill('SIGINT')

    t.match(await ended, { exitCode: 0, output: /INFO +stopped\n$/ })
  },
)

t.test('a first network that overlaps a route of this machine is refused', async t => {
  const directory = makeDirectory(t)
  const office = [...UNDERLAY, 'ip route add 10.5.64.0/20 via 192.0.2.7']
  const args = ['--embedded-etcd', '--init-network', '10.5.0.0/16']

  const refused = await runFlanneld(t, directory, office, args).ended

  t.equal(refused.exitCode, 1)
  t.match(
    refused.output,
    /FATAL network 10\.5\.0\.0\/16 overlaps the route 10\.5\.64\.0\/20 via 192\.0\.2\.7/,
  )
  t.same(strayLines(refused.output), [], 'without a stack')

  const other = ['--embedded-etcd', '--init-network', '10.9.0.0/16']
  const second = runFlanneld(t, directory, office, other)
  await second.says('this host has subnet 10.9.')
  t.pass('the refused network was not stored')
})

t.test('a second daemon for the same prefix says so in one line', async t => {
  const directory = makeDirectory(t)
  const nowhere = ['--etcd-endpoints=http://127.0.0.1:1']
  const first = runFlanneld(t, directory, UNDERLAY, nowhere)
  await first.says('waiting for')

  const { exitCode, output } = await runFlanneld(t, directory, UNDERLAY, nowhere).ended

  t.equal(exitCode, 1)
  t.match(output, /FATAL another flanneld with --etcd-prefix \/coreos.com\/network runs/)
  t.same(strayLines(output), [])
})

t.test('what the host does not allow is said in one line', async t => {
  const directory = makeDirectory(t)
  const listener = `setpriv --pdeathsig KILL -- ${process.execPath} -e "require('net').createServer().listen(10254)" >/dev/null &
    until ss -ltn | grep -q :10254; do sleep 0.05; done`

  const taken = await runFlanneld(
    t,
    directory,
    [...UNDERLAY, listener],
    ['--healthz-port=10254'],
  ).ended

  t.equal(taken.exitCode, 1)
  t.match(taken.output, /FATAL --healthz-port: .*0\.0\.0\.0:10254; choose another/)
  t.same(strayLines(taken.output), [])

  const unwritable = await runFlanneld(t, directory, UNDERLAY, [
    '--run-dir=/dev/null/run',
  ]).ended

  t.equal(unwritable.exitCode, 1)
  t.match(unwritable.output, /FATAL .*mkdir '\/dev\/null\/run/)
  t.same(strayLines(unwritable.output), [])
})

t.test('a run directory whose sockets would get too long a name is refused', async t => {
  const directory = makeDirectory(t)
  const deep = `${directory}/${'long-'.repeat(20)}`

  const refused = await runFlanneld(t, directory, UNDERLAY, [`--run-dir=${deep}`]).ended

  t.equal(refused.exitCode, 1)
  t.match(refused.output, /FATAL .*107 bytes.*--run-dir/)
})

t.test('the embedded etcd with TLS is used with the certificate it has', async t => {
  const directory = makeDirectory(t)
  const key = join(directory, 'key.pem')
  const certificate = join(directory, 'cert.pem')
  const subject = ['-subj', '/CN=etcd', '-addext', 'subjectAltName=IP:127.0.0.1']
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
      .concat(subject)
      .concat(['-days', '1', '-keyout', key, '-out', certificate]),
    { stdio: 'pipe' },
  )
  const { says } = runFlanneld(t, directory, UNDERLAY, [
    '--embedded-etcd',
    '--embedded-etcd-listen=https://127.0.0.1:2379',
    `--embedded-etcd-certfile=${certificate}`,
    `--embedded-etcd-keyfile=${key}`,
    `--etcd-cafile=${certificate}`,
    '--init-network=10.5.0.0/16',
  ])

  await says('flanneld is ready')
  t.pass('it has a lease')
})
