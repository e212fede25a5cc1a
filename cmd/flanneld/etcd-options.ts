import { readFileSync } from 'node:fs'
import type { Logger } from 'pino'
import type { EtcdLogin, EtcdOptions } from '../../lib/subnet/etcd-cluster.js'
import { SubnetError } from '../../lib/subnet/errors.js'
import { TlsFiles } from '../../lib/subnet/tls-files.js'
import type { ETCD_FLAGS } from './flag-table.js'
import { type Flags, UsageError } from './parse-flags.js'

type EtcdFlags = Flags<typeof ETCD_FLAGS>

/** Reads the files that the etcd flags name. Throws UsageError for what cannot work. */
export function readEtcdOptions(flags: EtcdFlags, log?: Logger): EtcdOptions {
  const endpoints = flags['etcd-endpoints']
    .split(',')
    .map(text => parseEndpoint(text.trim()))
  const plain = endpoints.find(endpoint => endpoint.startsWith('http:'))
  const tls = readTls(flags, log)
  if (tls !== undefined && plain !== undefined) {
    throw new UsageError(
      `certificates are given, but ${plain} is not https; set --etcd-endpoints to https URLs`,
    )
  }
  const login = readLogin(flags)
  const isPasswordPlain = flags['etcd-insecure-password']
  const exposed = endpoints.find(isReadOnTheWay)
  if (login !== undefined && exposed !== undefined && !isPasswordPlain) {
    throw new UsageError(
      `the password for etcd would go to ${exposed} in clear; use https, or --etcd-insecure-password if you mean it`,
    )
  }
  return {
    endpoints,
    isPlainSrvAllowed: tls === undefined && (login === undefined || isPasswordPlain),
    ...(tls && { tls }),
    ...(login && { login }),
    ...(log && { log }),
  }
}

/** An URL with a port, as etcd writes them; or srv:// with a domain. */
function parseEndpoint(text: string): string {
  const [, domain] = /^srv:\/\/([\w-]+(?:\.[\w-]+)*)\.?\/?$/.exec(text) ?? []
  if (domain !== undefined) return `srv://${domain}`
  const match = /^(https?):\/\/([^/?#@]+)\/?$/.exec(text)
  const [, scheme, host] = match ?? []
  if (scheme === undefined || host === undefined || !URL.canParse(text)) {
    throw new UsageError(
      `--etcd-endpoints: ${JSON.stringify(text)} is neither an URL such as http://192.0.2.1:2379 nor a domain with SRV records such as srv://example.com`,
    )
  }
  return /:\d+$/.test(host) ? `${scheme}://${host}` : `${scheme}://${host}:2379`
}

function isReadOnTheWay(endpoint: string): boolean {
  const { protocol, hostname } = new URL(endpoint)
  return protocol === 'http:' && !/^(127(\.\d+){3}|\[::1\]|localhost)$/.test(hostname)
}

function readTls(flags: EtcdFlags, log: Logger | undefined): TlsFiles | undefined {
  const [ca, cert, key] = [
    flags['etcd-cafile'],
    flags['etcd-certfile'],
    flags['etcd-keyfile'],
  ]
  if ((cert === '') !== (key === '')) {
    throw new UsageError('--etcd-certfile and --etcd-keyfile go together')
  }
  if (ca === '' && cert === '') return undefined
  try {
    return new TlsFiles(
      { ...(ca !== '' && { ca }), ...(cert !== '' && { cert, key }) },
      log,
    )
  } catch (cause) {
    throw new UsageError(`TLS for etcd: ${messageOf(cause)}`, { cause })
  }
}

function readLogin(flags: EtcdFlags): EtcdLogin | undefined {
  const username = flags['etcd-username']
  const password = flags['etcd-password']
  const file = flags['etcd-password-file']
  if (file !== '' && password !== '') {
    throw new UsageError('give --etcd-password-file or --etcd-password, not both')
  }
  if (username === '' && file !== '') {
    throw new UsageError('--etcd-password-file needs --etcd-username')
  }
  if (username === '') return undefined
  if (file === '' && password === '') {
    throw new UsageError('--etcd-username needs --etcd-password-file')
  }
  if (file === '') return { username, readPassword: () => password }
  const readPassword = (): string => readPasswordFile(file)
  try {
    readPassword()
  } catch (cause) {
    throw new UsageError(messageOf(cause), { cause })
  }
  return { username, readPassword }
}

/** The line that the file holds. Throws ERR_REGISTRY_REFUSED, since etcd is asked in vain without it. */
function readPasswordFile(path: string): string {
  try {
    const password = readFileSync(path, 'utf8').replace(/\r?\n$/, '')
    if (password === '') throw new Error(`${path} is empty`)
    return password
  } catch (cause) {
    const message = `--etcd-password-file: ${messageOf(cause)}`
    throw new SubnetError('ERR_REGISTRY_REFUSED', message, { cause })
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The hosts of the endpoints, for messages and the check of overlaps. */
export function endpointHosts(endpoints: readonly string[]): string[] {
  return endpoints.map(endpoint => new URL(endpoint).hostname.replace(/^\[|\]$/g, ''))
}
