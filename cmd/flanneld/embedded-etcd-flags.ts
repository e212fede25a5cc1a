import { isIP } from 'node:net'
import { join } from 'node:path'
import type { DaemonContext, DaemonFlags } from './daemon.js'
import { type EmbeddedEtcd, openEmbeddedEtcd } from './embedded-etcd.js'
import { FLANNELD_FLAGS } from './flag-table.js'
import { UsageError } from './parse-flags.js'

/**
 * Where --embedded-etcd is to listen; undefined without that flag. Throws
 * UsageError for flags that contradict each other, and for a listener that
 * would let strangers write to the network's registry.
 */
export function readEmbeddedEtcdFlags(flags: DaemonFlags): URL | undefined {
  if (!flags['embedded-etcd']) return undefined
  if (flags['etcd-endpoints'] !== FLANNELD_FLAGS['etcd-endpoints'].default) {
    throw new UsageError('--embedded-etcd and --etcd-endpoints exclude each other')
  }
  const text = flags['embedded-etcd-listen']
  const listen = parseListen(text)
  const hasCertificate =
    flags['embedded-etcd-certfile'] !== '' && flags['embedded-etcd-keyfile'] !== ''
  if (listen.protocol === 'https:' && !hasCertificate) {
    throw new UsageError(
      'an https --embedded-etcd-listen needs --embedded-etcd-certfile and --embedded-etcd-keyfile',
    )
  }
  if (isOpenToOthers(listen) && !flags['embedded-etcd-insecure']) {
    throw new UsageError(
      `--embedded-etcd-listen ${text} would let anybody who reaches ${listen.hostname} rule the network; use https, or --embedded-etcd-insecure if you mean it`,
    )
  }
  return listen
}

/** How we reach our own etcd: unless an authority is named, its certificate is one we know. */
export function embeddedEtcdAccess(
  listen: URL,
  flags: DaemonFlags,
): Pick<DaemonFlags, 'etcd-endpoints' | 'etcd-cafile'> {
  const isPrivate = listen.protocol === 'https:' && flags['etcd-cafile'] === ''
  return {
    'etcd-endpoints': listen.origin,
    'etcd-cafile': isPrivate ? flags['embedded-etcd-certfile'] : flags['etcd-cafile'],
  }
}

/** Runs the embedded etcd as the flags have it, until the daemon's end. */
export async function startEmbeddedEtcd(
  listen: URL,
  {
    flags,
    places,
    clock,
    log,
    stop,
  }: Pick<DaemonContext, 'flags' | 'places' | 'clock' | 'log' | 'stop'>,
): Promise<EmbeddedEtcd> {
  if (isOpenToOthers(listen)) {
    log.warn(
      { listen: listen.origin },
      'the embedded etcd is open to everybody who reaches this address',
    )
  }
  const dataDir = flags['embedded-etcd-data-dir'] || join(places.stateDir, 'etcd')
  const tls = {
    certFile: flags['embedded-etcd-certfile'],
    keyFile: flags['embedded-etcd-keyfile'],
  }
  const etcd = await openEmbeddedEtcd({
    listen,
    dataDir,
    ...(listen.protocol === 'https:' && { tls }),
    clock,
    log,
    stop,
  })
  log.info({ endpoint: etcd.endpoint, dataDir }, 'embedded etcd runs')
  return etcd
}

function isOpenToOthers({ protocol, hostname }: URL): boolean {
  return protocol !== 'https:' && !/^(127(\.\d+){3}|\[::1\]|localhost)$/.test(hostname)
}

/** etcd binds to addresses, and to localhost as the one name; it wants a port to be named. */
function parseListen(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.port !== '') {
    const isBare = text.replace(/\/$/, '') === url.origin
    const bindable = isIP(url.hostname.replace(/^\[|\]$/g, '')) !== 0
    if (isBare && (bindable || url.hostname === 'localhost')) return url
  }
  throw new UsageError(
    `--embedded-etcd-listen is ${JSON.stringify(text)}; it takes an URL with an IP address and a port other than 80 and 443, such as http://127.0.0.1:2379`,
  )
}
