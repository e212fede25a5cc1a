import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import type { Registry } from '../../lib/subnet/registry.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { readEtcdOptions } from '../flanneld/etcd-options.js'
import type { ETCD_FLAGS } from '../flanneld/flag-table.js'
import type { Flags } from '../flanneld/parse-flags.js'

/** Asks etcd, as the flags and variables say that the daemon would, and hangs up. */
export async function withRegistry<T>(
  flags: Flags<typeof ETCD_FLAGS>,
  ask: (registry: Registry, prefix: string) => Promise<T>,
): Promise<T> {
  const registry = new EtcdRegistry(readEtcdOptions(flags))
  try {
    return await ask(registry, cleanPrefix(flags['etcd-prefix']))
  } finally {
    registry.close()
  }
}
