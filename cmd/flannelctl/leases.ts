import { LeaseTable } from '../../lib/subnet/lease-table.js'
import { formatAddress } from '../../lib/subnet/prefix.js'
import type { Registry } from '../../lib/subnet/registry.js'
import { formatSubnet, prefixesOf, subnetsPrefix } from '../../lib/subnet/subnet-key.js'
import type { SubnetRecord } from '../../lib/subnet/subnet-record.js'
import { readStoredHostId } from '../flanneld/identity.js'
import { placesOf } from '../flanneld/places.js'
import { EXIT, COMMON_FLAGS, defineCommand, printJson, refuseWords } from './command.js'
import { type StatusFlags, askDaemon } from './daemon-status.js'
import { withRegistry } from './etcd.js'
import { inChunks } from '../../lib/subnet/in-chunks.js'
import { formatSeconds, formatTable } from './table.js'

/** How many leases etcd is asked about at the same time. */
const CONCURRENCY = 32

export const leasesCommand = defineCommand({
  help: `
flannelctl leases [flags]

Lists the subnet records in etcd. * marks the one of this host.
A reservation is a record without an etcd lease: it does not expire.

  flannelctl leases
  flannelctl leases --etcd-endpoints=http://192.0.2.10:2379
  flannelctl leases --json | jq -r '.leases[].publicIp'

Exits with ${EXIT.trouble} when there are keys that cannot be read.`,
  flags: COMMON_FLAGS,
  run: async (flags, words) => {
    refuseWords('leases', words)
    const { records, bad } = await withRegistry(flags, listLeases)
    const mine = await ownHostId(flags)
    const leases = records.map(record => describe(record, mine))
    if (flags.json) printJson({ leases, unreadable: bad })
    else print(leases, bad)
    return bad.length > 0 ? EXIT.trouble : EXIT.ok
  },
})

/** A record with the seconds that etcd keeps it; none for a reservation. */
type TimedRecord = SubnetRecord & { readonly expiresIn: number | undefined }

async function listLeases(
  registry: Registry,
  prefix: string,
): Promise<{ records: TimedRecord[]; bad: ReturnType<LeaseTable['bad']> }> {
  const table = new LeaseTable()
  table.replace(await registry.list(subnetsPrefix(prefix)))
  const sorted = table.records().sort(bySubnet)
  const records = await inChunks(sorted, CONCURRENCY, record => addTime(record, registry))
  return { records, bad: table.bad() }
}

async function addTime(record: SubnetRecord, registry: Registry): Promise<TimedRecord> {
  const expiresIn =
    record.kind === 'lease' ? await registry.leaseTimeToLive(record.leaseId) : undefined
  return { ...record, expiresIn }
}

function bySubnet(a: SubnetRecord, b: SubnetRecord): number {
  const [first] = prefixesOf(a.subnet)
  const [second] = prefixesOf(b.subnet)
  if (first === undefined || second === undefined) return 0
  if (first.family !== second.family) return first.family - second.family
  return first.network < second.network ? -1 : 1
}

/** The id of this host: the running daemon's word, else what it stored. Undefined when neither can be had. */
async function ownHostId(flags: StatusFlags): Promise<string | undefined> {
  try {
    const status = await askDaemon(flags)
    const running = status?.lease?.record.HostID
    return running ?? (await readStoredHostId(placesOf(flags).hostIdFile))
  } catch (error) {
    process.stderr.write(
      `this host's own lease is not known: ${(error as Error).message}\n`,
    )
    return undefined
  }
}

function describe(record: TimedRecord, mine: string | undefined): Lease {
  const { subnet, holder, kind, expiresIn } = record
  const address = holder.publicIp ?? holder.publicIpv6
  return {
    subnet: formatSubnet(subnet),
    hostId: holder.hostId ?? null,
    publicIp: address === undefined ? null : formatAddress(address),
    backend: holder.backendType || 'udp',
    kind,
    expiresInSeconds: expiresIn ?? null,
    mine: mine !== undefined && holder.hostId === mine,
  }
}

interface Lease {
  readonly subnet: string
  readonly hostId: string | null
  readonly publicIp: string | null
  /** A record that names none is of udp or alloc; udp is taken. */
  readonly backend: string
  readonly kind: SubnetRecord['kind']
  readonly expiresInSeconds: number | null
  readonly mine: boolean
}

function print(leases: readonly Lease[], bad: ReturnType<LeaseTable['bad']>): void {
  if (leases.length === 0) process.stdout.write('nobody holds a subnet\n')
  else {
    process.stdout.write(
      formatTable(
        ['', 'SUBNET', 'HOST ID', 'PUBLIC IP', 'BACKEND', 'EXPIRES IN'],
        leases.map(lease => [
          lease.mine ? '*' : '',
          lease.subnet,
          lease.hostId ?? '-',
          lease.publicIp ?? '-',
          lease.backend,
          lease.expiresInSeconds === null
            ? 'never (reservation)'
            : formatSeconds(lease.expiresInSeconds),
        ]),
      ),
    )
  }
  for (const { key, why } of bad) process.stderr.write(`unreadable: ${key}: ${why}\n`)
}
