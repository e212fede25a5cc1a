import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const FLANNELCTL = fileURLToPath(new URL('../../../cmd/flannelctl.js', import.meta.url))

/** The input of flannel's own test of mk-docker-opts.sh. */
const SUBNET_ENV = `FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
`

interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function dockerOpts(args: readonly string[], env: NodeJS.ProcessEnv = {}): Run {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [FLANNELCTL, 'docker-opts', ...args],
    { encoding: 'utf8', env: { PATH: process.env['PATH'], ...env } },
  )
  return { status, stdout, stderr }
}

const golden = [
  {
    name: 'without options both forms are written',
    args: [],
    output: `DOCKER_OPT_BIP="--bip=10.1.74.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_MTU="--mtu=1472"
DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
`,
  },
  {
    name: '-i writes a variable per option',
    args: ['-i'],
    output: `DOCKER_OPT_BIP="--bip=10.1.74.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_MTU="--mtu=1472"
`,
  },
  {
    name: '-c writes one variable',
    args: ['-c'],
    output: `DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
`,
  },
  {
    name: '-k names the one variable',
    args: ['-c', '-k', 'CUSTOM_KEY'],
    output: `CUSTOM_KEY=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
`,
  },
  {
    name: '-m leaves masquerading out',
    args: ['-m'],
    output: `DOCKER_OPT_BIP="--bip=10.1.74.1/24"
DOCKER_OPT_MTU="--mtu=1472"
DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"
`,
  },
  {
    name: 'letters may stand together and take their value attached',
    args: ['-cmkKEY'],
    output: `KEY=" --bip=10.1.74.1/24 --mtu=1472"
`,
  },
]

t.test('docker-opts writes what mk-docker-opts.sh does', t => {
  for (const { name, args, output } of golden) {
    const directory = t.testdir({ 'subnet.env': SUBNET_ENV })
    const file = join(directory, 'docker.env')

    const { status, stderr } = dockerOpts([
      '-f',
      join(directory, 'subnet.env'),
      '-d',
      file,
      ...args,
    ])

    t.equal(status, 0, stderr)
    t.equal(readFileSync(file, 'utf8'), output, name)
  }
  t.end()
})

t.test('docker-opts keeps what the environment holds', t => {
  const directory = t.testdir({ 'subnet.env': SUBNET_ENV })

  const { stdout } = dockerOpts(['-f', join(directory, 'subnet.env'), '-d', '-'], {
    DOCKER_OPTS: '--debug',
    DOCKER_OPT_LABEL: '--label=a',
  })

  t.equal(
    stdout,
    `DOCKER_OPT_BIP="--bip=10.1.74.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_LABEL="--label=a"
DOCKER_OPT_MTU="--mtu=1472"
DOCKER_OPTS="--debug  --bip=10.1.74.1/24 --ip-masq=true --label=a --mtu=1472"
`,
  )
  t.end()
})

t.test('Docker masquerades exactly when flanneld does not', t => {
  const directory = t.testdir({ 'subnet.env': 'FLANNEL_IPMASQ=true\n' })

  const { stdout } = dockerOpts(['-f', join(directory, 'subnet.env'), '-i', '-d', '-'])

  t.equal(stdout, 'DOCKER_OPT_IPMASQ="--ip-masq=false"\n')
  t.end()
})

t.test('a missing subnet file gives empty options, as with the script', t => {
  const { status, stdout } = dockerOpts(['-f', '/nonexistent/subnet.env', '-d', '-'])

  t.equal(status, 0)
  t.equal(stdout, 'DOCKER_OPTS=""\n')
  t.end()
})

t.test('docker-opts refuses what it cannot use', t => {
  const directory = t.testdir({ 'subnet.env': 'FLANNEL_IPMASQ=maybe\n' })

  const bad = dockerOpts(['-f', join(directory, 'subnet.env'), '-d', '-'])
  const unknown = dockerOpts(['-x'])
  const key = dockerOpts(['-k', 'A B'])
  const help = dockerOpts(['-h'])

  t.match(bad, { status: 1, stderr: /Invalid value of FLANNEL_IPMASQ: maybe/ })
  t.match(unknown, { status: 2, stderr: /unknown option -x/ })
  t.match(key, { status: 2, stderr: /not a name of a variable/ })
  t.match(help, { status: 1, stderr: /-f FILE/ }, 'usage, with exit code 1 as the script')
  t.end()
})

t.test('--engine adds what the engine needs', t => {
  const engines = [
    { version: '20.10.24+dfsg1', stdout: '', stderr: '' },
    { version: '28.1.1', stdout: '', stderr: 'DOCKER_INSECURE_NO_IPTABLES_RAW=1' },
    {
      version: '28.2.2',
      stdout: 'DOCKER_OPT_ALLOW_DIRECT_ROUTING="--allow-direct-routing=true"\n',
      stderr: '',
    },
    {
      version: '29.0.0',
      stdout: 'DOCKER_OPT_ALLOW_DIRECT_ROUTING="--allow-direct-routing=true"\n',
      stderr: '',
    },
  ]
  for (const engine of engines) {
    const directory = t.testdir({ 'subnet.env': '' })

    const { status, stdout, stderr } = dockerOpts([
      '-f',
      join(directory, 'subnet.env'),
      '-i',
      '-d',
      '-',
      `--engine=${engine.version}`,
    ])

    t.equal(status, 0, stderr)
    t.equal(stdout, engine.stdout, engine.version)
    t.match(stderr, engine.stderr)
  }
  t.end()
})

t.test('the subnet file is the one that flanneld was told to write', t => {
  const file = join(t.testdir({ 'subnet.env': SUBNET_ENV }), 'subnet.env')
  const env = { FLANNELD_SUBNET_FILE: file }
  const { stdout, status } = dockerOpts(['-c', '-d', '-'], env)
  t.equal(status, 0)
  t.equal(stdout, 'DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"\n')
  t.end()
})
