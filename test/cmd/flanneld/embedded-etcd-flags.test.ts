import t from 'tap'
import { readCommandLine } from '../../../cmd/flanneld/command-line.js'
import { readEmbeddedEtcdFlags } from '../../../cmd/flanneld/embedded-etcd-flags.js'
import { FLANNELD_FLAGS } from '../../../cmd/flanneld/flag-table.js'

function read(...args: string[]): URL | undefined {
  const { flags } = readCommandLine(FLANNELD_FLAGS, ['--embedded-etcd', ...args], {})
  return readEmbeddedEtcdFlags(flags)
}

const CERTIFICATE = ['--embedded-etcd-certfile=c.pem', '--embedded-etcd-keyfile=k.pem']

t.test('the embedded etcd is off unless it is asked for', t => {
  t.equal(read('--embedded-etcd=false'), undefined)
  t.equal(read()?.origin, 'http://127.0.0.1:2379')
  t.end()
})

t.test('an etcd that listens beyond loopback needs TLS or a plain word', t => {
  const listen = '--embedded-etcd-listen=http://192.0.2.1:2379'

  t.throws(() => read(listen), { name: 'UsageError', message: 'rule the network' })
  t.throws(() => read('--embedded-etcd-listen=http://0.0.0.0:2379'), {
    message: 'rule the network',
  })
  t.throws(() => read('--embedded-etcd-listen=http://[::]:2379'), {
    message: 'rule the network',
  })
  t.equal(read(listen, '--embedded-etcd-insecure')?.host, '192.0.2.1:2379')
  t.equal(
    read('--embedded-etcd-listen=https://192.0.2.1:2379', ...CERTIFICATE)?.protocol,
    'https:',
  )
  t.equal(read('--embedded-etcd-listen=http://[::1]:2379')?.host, '[::1]:2379')
  t.end()
})

t.test('an https listener needs its certificate and key', t => {
  const listen = '--embedded-etcd-listen=https://127.0.0.1:2379'

  t.throws(() => read(listen), { message: '--embedded-etcd-certfile and' })
  t.throws(() => read(listen, '--embedded-etcd-certfile=c.pem'), {
    message: '--embedded-etcd-certfile and',
  })
  t.end()
})

t.test('what is no address with a port is refused and quoted', t => {
  const refused = [
    '127.0.0.1:2379',
    'http://127.0.0.1',
    'http://etcd.example.com:2379',
    'ftp://127.0.0.1:2379',
    'http://user@127.0.0.1:2379',
    'http://127.0.0.1:2379/path',
    'unix:///run/etcd.sock',
  ]
  for (const listen of refused) {
    t.throws(() => read(`--embedded-etcd-listen=${listen}`), {
      name: 'UsageError',
      message: `--embedded-etcd-listen is ${JSON.stringify(listen)}`,
    })
  }
  t.end()
})

t.test('an embedded etcd and another one are not both taken', t => {
  t.throws(() => read('--etcd-endpoints=http://192.0.2.1:2379'), {
    name: 'UsageError',
    message: '--embedded-etcd and --etcd-endpoints exclude each other',
  })
  t.end()
})
