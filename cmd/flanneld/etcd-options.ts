import { readFileSync } from 'node:fs'
import type { EtcdOptions } from '../../lib/subnet/etcd-client.js'
import type { ETCD_FLAGS } from './flag-table.js'
import { type Flags, UsageError } from './parse-flags.js'

/** Reads the files that the etcd flags name. Throws UsageError for what cannot work. */
export function readEtcdOptions(flags: Flags<typeof ETCD_FLAGS>): EtcdOptions {
  const endpoints = flags['etcd-endpoints']
    .split(',')
    .map(text => parseEndpoint(text.trim()))
  const cafile = flags['etcd-cafile']
  const certfile = flags['etcd-certfile']
  const keyfile = flags['etcd-keyfile']
  if ((certfile === '') !== (keyfile === '')) {
    throw new UsageError('--etcd-certfile and --etcd-keyfile go together')
  }
  const plain = endpoints.find(endpoint => endpoint.startsWith('http:'))
  if (plain !== undefined && (cafile !== '' || certfile !== '')) {
    throw new UsageError(
      `certificates are given, but ${plain} is not https; set --etcd-endpoints to https URLs`,
    )
  }
  const username = flags['etcd-username']
  const password = readPassword(flags)
  return {
    endpoints,
    ...(cafile !== '' && { ca: readFile('--etcd-cafile', cafile) }),
    ...(certfile !== '' && { cert: readFile('--etcd-certfile', certfile) }),
    ...(keyfile !== '' && { key: readFile('--etcd-keyfile', keyfile) }),
    ...(username !== '' && { username, password }),
  }
}

/** An URL with a port, as etcd writes them. */
function parseEndpoint(text: string): string {
  const match = /^(https?):\/\/([^/?#@]+)\/?$/.exec(text)
  const [, scheme, host] = match ?? []
  if (scheme === undefined || host === undefined || !URL.canParse(text)) {
    throw new UsageError(
      `--etcd-endpoints: ${JSON.stringify(text)} is not an URL such as http://192.0.2.1:2379`,
    )
  }
  return /:\d+$/.test(host) ? `${scheme}://${host}` : `${scheme}://${host}:2379`
}

function readPassword(flags: Flags<typeof ETCD_FLAGS>): string {
  const file = flags['etcd-password-file']
  if (file === '') return flags['etcd-password']
  return readFile('--etcd-password-file', file)
    .toString('utf8')
    .replace(/\r?\n$/, '')
}

function readFile(flag: string, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new UsageError(`${flag}: ${why}`, { cause })
  }
}

/** The hosts of the endpoints, for messages and the check of overlaps. */
export function endpointHosts(endpoints: readonly string[]): string[] {
  return endpoints.map(endpoint => new URL(endpoint).hostname.replace(/^\[|\]$/g, ''))
}
