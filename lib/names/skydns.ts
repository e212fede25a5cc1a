import { createHash } from 'node:crypto'
import { type Address, addressBytes } from '../subnet/prefix.js'

/**
 * Names as SkyDNS laid them out in etcd, and as the etcd plugin of CoreDNS reads them
 * (plugin/etcd/msg): the labels of a name, the last first, are the path of its key.
 */

/** Never without: up to 1.12.3 CoreDNS takes an etcd lease's id for it (CVE-2025-58063). */
export const TTL_SECONDS = 60

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/

/** RFC 1035: 255 bytes with a length before each label, 253 as text. */
const LONGEST_NAME = 253

export function isName(text: string): boolean {
  return text.length <= LONGEST_NAME && text.split('.').every(label => LABEL.test(label))
}

/** What a host or a container is called, as a label; undefined when it makes none. */
export function toLabel(text: string): string | undefined {
  const label = text.toLowerCase().replaceAll(/[_.]/g, '-')
  return LABEL.test(label) ? label : undefined
}

/**
 * The key of one of the values of a name: `web.db.local` is at `/skydns/local/db/web`.
 *
 * @param value tells values of one name apart, such as those of several hosts; it
 *   becomes part of no name that anybody asks for.
 */
export function nameKey(prefix: string, name: string, value: string): string {
  const path = name.split('.').reverse().join('/')
  const id = createHash('sha256').update(value).digest('hex').slice(0, 16)
  return `${prefix}/${path}/_${id}`
}

/** Where the name of an address is: /skydns/arpa/in-addr/10/1/74/5. */
export function reverseKey(prefix: string, address: Address): string {
  const bytes = [...addressBytes(address)]
  const labels =
    address.family === 4
      ? ['in-addr', ...bytes.map(String)]
      : [
          'ip6',
          ...bytes.flatMap(byte => [(byte >> 4).toString(16), (byte & 15).toString(16)]),
        ]
  return `${prefix}/arpa/${labels.join('/')}`
}

/** @param host an address, or for a reverse key the name, which ends in a dot. */
export function formatService(host: string): string {
  return JSON.stringify({ host, ttl: TTL_SECONDS })
}
