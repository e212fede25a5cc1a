import t from 'tap'
import { formatHelp, readCommandLine } from '../../../cmd/flanneld/command-line.js'
import { FLANNELD_FLAGS } from '../../../cmd/flanneld/flag-table.js'
import { UsageError } from '../../../cmd/flanneld/parse-flags.js'
import { fc, holds } from '../../helpers/property.js'

function read(args: readonly string[], environment: NodeJS.ProcessEnv = {}) {
  return readCommandLine(FLANNELD_FLAGS, args, environment).flags
}

/** What the operator is told. */
function refusal(args: readonly string[], environment: NodeJS.ProcessEnv = {}): string {
  try {
    read(args, environment)
  } catch (error) {
    if (error instanceof UsageError) return error.message
    throw error
  }
  return 'it was taken'
}

t.test("without flags the values are flannel's defaults", t => {
  t.match(read([]), {
    'etcd-endpoints': 'http://127.0.0.1:4001,http://127.0.0.1:2379',
    'etcd-prefix': '/coreos.com/network',
    'subnet-file': '/run/flannel/subnet.env',
    'subnet-lease-renew-margin': 60,
    'ip-masq': false,
    'iptables-forward-rules': true,
    'iptables-resync': 5,
    'healthz-ip': '0.0.0.0',
    'healthz-port': 0,
    iface: [],
  })
  t.end()
})

t.test('a flag is written with one dash or two, and its value after = or a space', t => {
  for (const args of [
    ['-etcd-prefix=/a'],
    ['--etcd-prefix=/a'],
    ['-etcd-prefix', '/a'],
    ['--etcd-prefix', '/a'],
  ]) {
    t.equal(read(args)['etcd-prefix'], '/a', args.join(' '))
  }
  t.equal(read(['-v=2']).v, 2)
  t.equal(read(['-v', '2']).v, 2)
  t.end()
})

t.test('any text is a value, down to the last character', async t => {
  t.equal(read(['--etcd-prefix', '--ip-masq'])['etcd-prefix'], '--ip-masq')
  t.equal(read(['--etcd-prefix='])['etcd-prefix'], '')
  t.equal(read(['--etcd-password=a=b=c'])['etcd-password'], 'a=b=c')
  await holds(
    t,
    fc.property(fc.string({ unit: 'grapheme' }), fc.boolean(), (text, apart) => {
      const args = apart ? ['--etcd-password', text] : [`-etcd-password=${text}`]
      return read(args)['etcd-password'] === text
    }),
    {
      examples: [
        ['"quoted"', false],
        ["'quoted'", true],
        ['1e3', false],
        ['a\nb', true],
      ],
    },
  )
})

t.test('booleans are those of Go, and never take the next word', t => {
  for (const word of ['1', 't', 'T', 'true', 'TRUE', 'True']) {
    t.equal(read([`-ip-masq=${word}`])['ip-masq'], true, word)
  }
  for (const word of ['0', 'f', 'F', 'false', 'FALSE', 'False']) {
    t.equal(
      read([`--iptables-forward-rules=${word}`])['iptables-forward-rules'],
      false,
      word,
    )
  }
  t.equal(read(['--ip-masq'])['ip-masq'], true)
  const { flags, words } = readCommandLine(FLANNELD_FLAGS, ['--ip-masq', 'false'], {})
  t.equal(flags['ip-masq'], true)
  t.strictSame(words, ['false'])
  for (const word of ['yes', 'tRUE', '', 'constructor']) {
    t.equal(
      refusal([`--ip-masq=${word}`]),
      `--ip-masq is ${JSON.stringify(word)}; it takes true or false`,
    )
  }
  t.end()
})

t.test('integers are those of Go', t => {
  const numbers = {
    '0x10': 16,
    '0X1f': 31,
    '0b101': 5,
    '0o17': 15,
    '017': 15,
    '+7': 7,
    '00': 0,
  }
  for (const [text, value] of Object.entries({ ...numbers, '-3': -3, '8080': 8080 })) {
    t.equal(read([`--healthz-port=${text}`])['healthz-port'], value, text)
  }
  for (const text of ['', '08', '1.5', '1e3', 'ten', '0x', '1 ', 'Infinity']) {
    t.equal(
      refusal(['--healthz-port', text]),
      `--healthz-port is ${JSON.stringify(text)}; it takes a whole number`,
    )
  }
  t.end()
})

t.test('the command line beats the environment, which beats the default', t => {
  const environment = {
    FLANNELD_ETCD_PREFIX: '/environment',
    FLANNELD_IP_MASQ: 'T',
    FLANNELD_IPTABLES_RESYNC: '0x10',
    FLANNELD_IFACE: 'eth0,eth1',
    FLANNELD_HEALTHZ_IP: '',
    FLANNELD_SERVICE_HOST: '10.0.0.1',
  }
  const flags = read(['-etcd-prefix=/line'], environment)

  t.equal(flags['etcd-prefix'], '/line')
  t.equal(flags['ip-masq'], true)
  t.equal(flags['iptables-resync'], 16)
  t.strictSame(flags.iface, ['eth0,eth1'], 'one value, never split')
  t.equal(flags['healthz-ip'], '0.0.0.0', 'an empty variable is not set')
  t.equal(
    refusal([], { FLANNELD_IP_MASQ: 'maybe' }),
    'FLANNELD_IP_MASQ is "maybe"; it takes true or false',
  )
  t.end()
})

t.test('a repeatable flag keeps all its values in order, any other the last', t => {
  const args = ['--iface=b', '-iface', 'a', '--iface-regex=^x', '-v=1', '-v=2']
  const flags = read([...args, '-etcd-prefix=/a', '-etcd-prefix=/b'], {
    FLANNELD_IFACE: 'c',
  })
  t.strictSame(flags.iface, ['b', 'a'])
  t.strictSame(flags['iface-regex'], ['^x'])
  t.equal(flags.v, 2)
  t.equal(flags['etcd-prefix'], '/b')
  t.end()
})

t.test('an unknown flag is refused with the nearest one that there is', t => {
  t.equal(
    refusal(['--etcd-endpoint=x']),
    'unknown flag --etcd-endpoint; did you mean --etcd-endpoints?',
  )
  t.equal(refusal(['-ipmasq']), 'unknown flag --ipmasq; did you mean --ip-masq?')
  t.equal(
    refusal(['--quite-other']),
    'unknown flag --quite-other; --help lists all flags',
  )
  t.match(refusal(['--constructor=1']), 'unknown flag --constructor')
  t.match(refusal(['--no-ip-masq']), 'unknown flag --no-ip-masq; did you mean --ip-masq?')
  t.equal(refusal(['--etcd-prefix']), 'flag --etcd-prefix needs a value')
  t.end()
})

t.test('a value outside the choices is refused with them', t => {
  t.equal(
    refusal(['--verify=strictly']),
    '--verify is "strictly"; it takes strict, inner, off',
  )
  t.end()
})

t.test(
  'flags of the Kubernetes manager and of klog are refused by name, from anywhere',
  t => {
    const kube = 'the Kubernetes subnet manager is not implemented; leases come from etcd'
    t.equal(refusal(['--kube-subnet-mgr']), `--kube-subnet-mgr: ${kube}`)
    t.equal(refusal(['-kubeconfig-file=/x']), `--kubeconfig-file: ${kube}`)
    t.equal(
      refusal([], { FLANNELD_KUBE_SUBNET_MGR: 'true' }),
      `FLANNELD_KUBE_SUBNET_MGR: ${kube}`,
    )
    t.match(
      refusal(['--vmodule=a=1']),
      '--vmodule: is a setting of klog; use --log-level',
    )
    t.doesNotThrow(
      () => read(['--kube-subnet-mgr=false']),
      'the default asks for nothing',
    )
    t.end()
  },
)

t.test('words behind -- and between flags are not flags', t => {
  const { words } = readCommandLine(
    FLANNELD_FLAGS,
    ['a', '-v=1', '--', '--ip-masq', '-'],
    {},
  )
  t.strictSame(words, ['a', '--ip-masq', '-'])
  t.end()
})

t.test(
  'the help names every flag with its variable, but none that is refused',
  async t => {
    const help = await formatHelp('flanneld [flags]', FLANNELD_FLAGS)
    for (const name of [
      'etcd-endpoints',
      'iface-can-reach',
      'ip-blackhole-route',
      'embedded-etcd',
    ]) {
      t.match(help, `--${name}`)
    }
    t.match(help.replaceAll(/\s+/g, ' '), '[FLANNELD_SUBNET_LEASE_RENEW_MARGIN]')
    t.notMatch(help, 'kube')
  },
)
