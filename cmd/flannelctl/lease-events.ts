import { formatAddress } from '../../lib/subnet/prefix.js'
import { formatSubnet } from '../../lib/subnet/subnet-key.js'
import type { Entry } from '../../lib/subnet/registry.js'
import { type SubnetRecord, parseSubnetRecord } from '../../lib/subnet/subnet-record.js'

/** What is told of a record, for comparing and for people. */
export type LeaseState =
  | { readonly subnet: string; readonly holder: string }
  | { readonly key: string; readonly why: string }

/** What has become of a record. */
export type LeaseEvent =
  | {
      readonly what: 'joined' | 'changed' | 'left'
      readonly subnet: string
      readonly holder: string
    }
  | { readonly what: 'unreadable'; readonly key: string; readonly why: string }

/** What a key of the registry says. */
export function leaseState(entry: Entry): LeaseState {
  try {
    const record = parseSubnetRecord(entry)
    return { subnet: formatSubnet(record.subnet), holder: describe(record) }
  } catch (error) {
    return { key: entry.key, why: (error as Error).message }
  }
}

function describe({ holder, kind }: SubnetRecord): string {
  const addresses = [holder.publicIp, holder.publicIpv6].flatMap(address =>
    address === undefined ? [] : [formatAddress(address)],
  )
  return [
    addresses.join(' and ') || 'nowhere yet',
    ...(holder.hostId === undefined ? [] : [`host ${holder.hostId}`]),
    holder.backendType || 'udp',
    ...(kind === 'reservation' ? ['reserved'] : []),
  ].join(', ')
}

/** From one set of records to another. */
export function leaseEvents(
  before: ReadonlyMap<string, LeaseState>,
  after: ReadonlyMap<string, LeaseState>,
): LeaseEvent[] {
  const events: LeaseEvent[] = []
  for (const [key, state] of before)
    if (!after.has(key) && 'subnet' in state) events.push({ what: 'left', ...state })
  for (const [key, state] of after) {
    const was = before.get(key)
    if (JSON.stringify(was) === JSON.stringify(state)) continue
    if (!('subnet' in state)) events.push({ what: 'unreadable', ...state })
    else
      events.push({
        what: was !== undefined && 'subnet' in was ? 'changed' : 'joined',
        ...state,
      })
  }
  return events
}
