import { spawnSync } from 'node:child_process'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { importCloudConfig } from '../../../cmd/flannelctl/cloud-config.js'

const PROGRAM = fileURLToPath(new URL('../../../cmd/flannelctl.js', import.meta.url))

/** As CoreOS's documentation has it. */
const USER_DATA = `#cloud-config
coreos:
  flannel:
    etcd_endpoints: http://10.0.0.1:2379,http://10.0.0.2:2379
    etcd-prefix: /my/network
    interface: $private_ipv4
    ip_masq: true
    etcd_password: "se $cret"
    subnet_len: 24
  units:
    - name: flanneld.service
      drop-ins:
        - name: 50-network-config.conf
          content: |
            [Service]
            ExecStartPre=/usr/bin/etcdctl set /coreos.com/network/config '{ "Network": "10.1.0.0/16" }'
      command: start
    - name: redis.service
      content: |
        [Unit]
        Requires=flanneld.service
        After=flanneld.service
        [Service]
        ExecStart=/usr/bin/docker run -p $private_ipv4:6379:6379 redis
      enable: true
    - name: ../../etc/passwd.service
      content: x
`

const directory = t.testdir({ 'user-data': USER_DATA })
const file = join(directory, 'user-data')

interface Said {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function flannelctl(...args: readonly string[]): Said {
  const command = [PROGRAM, 'import', ...args]
  const { status, stdout, stderr } = spawnSync(process.execPath, command, {
    encoding: 'utf8',
  })
  return { status, stdout, stderr }
}

t.test('what CoreOS read is what flanneld reads', async t => {
  const root = join(directory, 'root')
  const said = flannelctl(
    'cloud-config',
    file,
    '--private-ipv4=10.0.0.5',
    `--output=${root}`,
  )
  t.equal(said.status, 0, said.stderr)
  t.equal(
    await readFile(join(root, 'etc/flannel/options.env'), 'utf8'),
    `# From a cloud-config.
FLANNELD_ETCD_ENDPOINTS=http://10.0.0.1:2379,http://10.0.0.2:2379
FLANNELD_ETCD_PREFIX=/my/network
FLANNELD_IFACE=10.0.0.5
FLANNELD_IP_MASQ=true
FLANNELD_ETCD_PASSWORD_FILE=/etc/flannel/etcd-password
`,
  )
  const secret = join(root, 'etc/flannel/etcd-password')
  t.equal(await readFile(secret, 'utf8'), 'se $cret\n')
  t.equal((await stat(secret)).mode & 0o777, 0o600)
  t.match(
    await readFile(join(root, 'etc/systemd/system/redis.service'), 'utf8'),
    'ExecStart=/usr/bin/docker run -p 10.0.0.5:6379:6379 redis',
  )
  t.match(
    said.stdout,
    /== to run once\nflannelctl config set '\{"Network":"10\.1\.0\.0\/16"\}' --etcd-prefix=\/coreos\.com\/network --etcd-endpoints=http:\/\/10\.0\.0\.1:2379,http:\/\/10\.0\.0\.2:2379\nsystemctl daemon-reload\nsystemctl start flanneld\.service\nsystemctl enable redis\.service\n$/,
  )
  t.match(said.stderr, /coreos\.flannel\.subnet_len is left out: unknown key subnet_len/)
  t.match(said.stderr, /the password of etcd stood where everybody reads it/)
  t.match(said.stderr, /passwd\.service" is left out: no name of a unit/)

  const again = flannelctl('cloud-config', file, `--output=${root}`)
  t.equal(again.status, 1, 'nothing is written over')
})

t.test('an address that nobody has told', t => {
  const { stdout, stderr } = flannelctl('cloud-config', file)
  t.match(stdout, /^#FLANNELD_IFACE=$/m)
  t.match(
    stderr,
    /coreos\.flannel\.interface is \$private_ipv4, which nobody has told: give --private-ipv4/,
  )
  t.end()
})

t.test('every key of CoreOS is known', t => {
  const section = {
    etcd_endpoints: 'a',
    etcd_cafile: 'b',
    etcd_certfile: 'c',
    etcd_keyfile: 'd',
    etcd_prefix: 'e',
    etcd_username: 'f',
    etcd_password: 'g',
    ip_masq: true,
    subnet_file: 'h',
    interface: 'i',
    public_ip: 'j',
  }
  const { files, warnings } = importCloudConfig({ coreos: { flannel: section } }, {})
  t.equal(
    files.find(({ path }) => path === '/etc/flannel/options.env')?.text.split('\n')
      .length,
    13,
  )
  t.equal(warnings.length, 1, 'but for the password')
  t.end()
})

t.test('values that are hostile', t => {
  const { files } = importCloudConfig(
    {
      coreos: {
        flannel: { interface: 'eth0"\nFLANNELD_VERIFY=off', etcd_prefix: '$(id)`id`' },
      },
    },
    {},
  )
  const text = files[0]?.text ?? ''
  t.match(text, 'FLANNELD_IFACE="eth0\\" FLANNELD_VERIFY=off"')
  t.notMatch(text, /^FLANNELD_VERIFY/m)
  t.end()
})

for (const [name, text, message] of [
  ['no header', 'coreos: {}', /has no line #cloud-config/],
  ['no YAML', '#cloud-config\n\t- x: [', /user-data|bad/],
  ['no section', '#cloud-config\nhostname: x', /no cloud-config with a section coreos/],
  [
    'a bomb',
    `#cloud-config\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\ncoreos: {units: [*c,*c,*c,*c]}`,
    /alias/i,
  ],
] as const)
  t.test(name, async t => {
    const bad = join(directory, 'bad')
    await writeFile(bad, text)
    const { status, stdout, stderr } = flannelctl('cloud-config', bad)
    t.same({ status, stdout }, { status: 1, stdout: '' }, stderr)
    t.match(stderr, message)
    t.equal(stderr.trim().split('\n').length < 8, true, 'and no stack')
  })

t.test('usage', t => {
  t.equal(flannelctl('cloud-config').status, 2)
  t.equal(flannelctl('ignition', file).status, 2)
  t.equal(flannelctl('cloud-config', '/nonexistent').status, 1)
  t.end()
})

t.test('a line that stores the network in a way that nobody can read', t => {
  const content =
    '[Service]\nExecStartPre=/usr/bin/etcdctl set /x/config "{ \\"N"\nRestart=no'
  const units = [{ name: 'flanneld.service', drop_ins: [{ name: 'a.conf', content }] }]
  const { files, commands, warnings } = importCloudConfig({ coreos: { units } }, {})
  t.equal(files[0]?.text, '[Service]\nRestart=no', 'is left out')
  t.same(commands, ['systemctl daemon-reload'])
  t.match(warnings[0], /is left out: store the network with flannelctl config set/)
  t.end()
})

t.test('a network whose JSON has a quote', t => {
  const content = `ExecStartPre=/usr/bin/etcdctl set /x/config '{"Network":"10.1.0.0/16","a":"it's"}'`
  const units = [
    { name: 'flanneld.service', drop_ins: [{ name: 'a.conf', content }] },
    { name: '10-eth.network', content: '[Match]\nName=eth0' },
  ]
  const { files, commands } = importCloudConfig({ coreos: { units } }, {})
  t.same(commands, [
    `flannelctl config set '{"Network":"10.1.0.0/16","a":"it'\\''s"}' --etcd-prefix=/x`,
  ])
  t.match(files, [{ path: '/etc/systemd/network/10-eth.network' }])
  t.end()
})
