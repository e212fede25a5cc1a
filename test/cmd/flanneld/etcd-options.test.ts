import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readCommandLine } from '../../../cmd/flanneld/command-line.js'
import { endpointHosts, readEtcdOptions } from '../../../cmd/flanneld/etcd-options.js'
import { ETCD_FLAGS } from '../../../cmd/flanneld/flag-table.js'
import type { EtcdOptions } from '../../../lib/subnet/etcd-cluster.js'
import { Authority } from '../../helpers/certificates.js'

function read(...args: string[]): EtcdOptions {
  return readEtcdOptions(readCommandLine(ETCD_FLAGS, args, {}).flags)
}

function refuses(t: Test, message: string | RegExp, ...args: string[]): void {
  t.throws(() => read(...args), { name: 'UsageError', message }, args.join(' '))
}

function write(t: Test, content: string): string {
  const path = join(t.testdir(), 'password')
  writeFileSync(path, content)
  return path
}

const LOGIN = ['--etcd-username=flannel', '--etcd-password=secret']
const FAR = '--etcd-endpoints=http://192.0.2.1:2379'

t.test('endpoints are URLs or domains, with the port of etcd unless one is given', t => {
  const text =
    ' http://192.0.2.1,https://[fd00::1]:4001/ ,srv://Example.com,srv://a.test./'

  const { endpoints } = read(`--etcd-endpoints=${text}`)

  t.strictSame(endpoints, [
    'http://192.0.2.1:2379',
    'https://[fd00::1]:4001',
    'srv://Example.com',
    'srv://a.test',
  ])
  t.strictSame(endpointHosts(endpoints), [
    '192.0.2.1',
    'fd00::1',
    'Example.com',
    'a.test',
  ])
  for (const bad of [
    '',
    'x',
    'ftp://a',
    'http://a/v2',
    'http://u:p@a',
    'srv://a:53',
    'srv://',
    'srv://a/b',
    'srv://[::1]',
  ]) {
    refuses(t, /is neither an URL such as/, `--etcd-endpoints=${bad}`)
  }
  t.end()
})

t.test('a password goes in clear to this host alone, unless that is meant', t => {
  for (const host of ['127.0.0.1', '127.9.9.9', '[::1]', 'localhost']) {
    t.equal(
      read(`--etcd-endpoints=http://${host}:2379`, ...LOGIN).login?.username,
      'flannel',
    )
  }
  t.ok(read('--etcd-endpoints=https://192.0.2.1:2379', ...LOGIN).login)
  t.ok(read(FAR).endpoints)
  const message =
    'the password for etcd would go to http://192.0.2.1:2379 in clear; use https, or --etcd-insecure-password if you mean it'
  refuses(t, message, FAR, ...LOGIN)
  refuses(
    t,
    /would go to http:\/\/localhost\.example:2379 /,
    '--etcd-endpoints=http://127.0.0.1,http://localhost.example',
    ...LOGIN,
  )
  t.ok(read(FAR, ...LOGIN, '--etcd-insecure-password').login)
  t.end()
})

t.test('what DNS names may be plain HTTP only when nothing secret goes there', t => {
  const authority = new Authority()
  t.teardown(() => {
    authority.remove()
  })
  const srv = '--etcd-endpoints=srv://example.com'

  t.equal(read(srv).isPlainSrvAllowed, true)
  t.equal(read(srv, ...LOGIN).isPlainSrvAllowed, false)
  t.equal(read(srv, ...LOGIN, '--etcd-insecure-password').isPlainSrvAllowed, true)
  t.equal(read(srv, `--etcd-cafile=${authority.ca}`).isPlainSrvAllowed, false)
  t.end()
})

t.test('the password file is read at each login, without the end of its line', t => {
  const path = write(t, 'one two\r\n')
  const { login } = read('--etcd-username=flannel', `--etcd-password-file=${path}`)

  t.equal(login?.readPassword(), 'one two')
  writeFileSync(path, 'new')
  t.equal(login?.readPassword(), 'new')
  writeFileSync(path, '\n')
  const broken = {
    code: 'ERR_REGISTRY_REFUSED',
    message: `--etcd-password-file: ${path} is empty`,
  }
  t.throws(() => login?.readPassword(), broken)
  t.end()
})

t.test('user and password that make no sense together are refused', t => {
  const path = write(t, '')
  const file = `--etcd-password-file=${path}`
  refuses(t, '--etcd-username needs --etcd-password-file', '--etcd-username=flannel')
  refuses(t, '--etcd-password-file needs --etcd-username', file)
  refuses(t, 'give --etcd-password-file or --etcd-password, not both', file, ...LOGIN)
  refuses(t, `--etcd-password-file: ${path} is empty`, '--etcd-username=flannel', file)
  refuses(
    t,
    /^--etcd-password-file: ENOENT/,
    '--etcd-username=flannel',
    '--etcd-password-file=/nowhere',
  )
  // flannel takes no notice of a password without a user either.
  t.equal(read('--etcd-password=secret').login, undefined)
  t.end()
})

t.test('certificates are checked at the start', t => {
  const authority = new Authority()
  t.teardown(() => {
    authority.remove()
  })
  const { cert, key } = authority.sign()
  const https = '--etcd-endpoints=https://192.0.2.1:2379'
  const [ca, certfile, keyfile] = [
    `--etcd-cafile=${authority.ca}`,
    `--etcd-certfile=${cert}`,
    `--etcd-keyfile=${key}`,
  ]

  const { tls } = read(https, ca, certfile, keyfile)

  t.strictSame(tls?.current().cert, readFileSync(cert))
  refuses(t, '--etcd-certfile and --etcd-keyfile go together', https, certfile)
  refuses(
    t,
    /^certificates are given, but http:\/\/192\.0\.2\.1:2379 is not https/,
    FAR,
    ca,
  )
  refuses(t, /^TLS for etcd: ENOENT.*\/nowhere/, https, '--etcd-cafile=/nowhere')
  refuses(
    t,
    `TLS for etcd: ${key} does not hold whole certificates in PEM`,
    https,
    `--etcd-cafile=${key}`,
  )
  t.end()
})
