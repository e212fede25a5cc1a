import type { SrvRecord } from 'node:dns'
import { Resolver } from 'node:dns/promises'
import { SubnetError } from './errors.js'

export type SrvResolver = Pick<Resolver, 'resolveSrv'>

/** A silent DNS server is asked twice, so that an answer or none is there in 4 s. */
const DNS_TIMEOUT_MS = 2000
const DNS_TRIES = 2

/** No cluster of etcd has more members; what a DNS server says is not to be trusted. */
const MAX_ENDPOINTS = 32

export function openSrvResolver(): SrvResolver {
  return new Resolver({ timeout: DNS_TIMEOUT_MS, tries: DNS_TRIES })
}

/**
 * The endpoints that a domain names in its SRV records (RFC 2782), as etcdctl's
 * --discovery-srv finds them: `_etcd-client-ssl._tcp` for https. Only a domain
 * that has none of those is asked for `_etcd-client._tcp`, which is plain HTTP,
 * and only if `isPlainAllowed`. Throws ERR_REGISTRY_UNAVAILABLE.
 */
export async function resolveEndpoints(
  domain: string,
  resolver: SrvResolver,
  isPlainAllowed: boolean,
): Promise<string[]> {
  const secure = await lookUp(`_etcd-client-ssl._tcp.${domain}`, resolver)
  if (secure.length > 0) return secure.map(host => `https://${host}`)
  const plain = await lookUp(`_etcd-client._tcp.${domain}`, resolver)
  if (plain.length === 0) {
    throw unavailable(
      `${domain} has no SRV records _etcd-client-ssl._tcp or _etcd-client._tcp`,
    )
  }
  if (!isPlainAllowed) {
    throw unavailable(
      `${domain} has SRV records for plain HTTP only (_etcd-client._tcp); certificates and passwords need _etcd-client-ssl._tcp`,
    )
  }
  return plain.map(host => `http://${host}`)
}

/** Hosts with ports, the lowest priority first; of equal ones that with the most weight. */
async function lookUp(name: string, resolver: SrvResolver): Promise<string[]> {
  const records = await ask(name, resolver)
  return records
    .filter(record => /^[\w-]+(\.[\w-]+)*\.?$/.test(record.name) && record.port > 0)
    .sort((a, b) => a.priority - b.priority || b.weight - a.weight)
    .slice(0, MAX_ENDPOINTS)
    .map(record => `${record.name.replace(/\.$/, '')}:${record.port}`)
}

async function ask(name: string, resolver: SrvResolver): Promise<SrvRecord[]> {
  try {
    return await resolver.resolveSrv(name)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOTFOUND' || code === 'ENODATA') return []
    throw unavailable(`DNS does not answer for ${name} (${code})`, { cause })
  }
}

function unavailable(why: string, options?: ErrorOptions): SubnetError {
  return new SubnetError('ERR_REGISTRY_UNAVAILABLE', `cannot find etcd: ${why}`, options)
}
