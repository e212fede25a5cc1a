import { rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { LeaseTable } from '../../lib/subnet/lease-table.js'
import { isSubnetOfNetwork, parseNetworkConfig } from '../../lib/subnet/network-config.js'
import {
  type Order,
  formatOrder,
  orderKey,
  ordersPrefix,
  parseSubnet,
  readOrder,
} from '../../lib/subnet/orders.js'
import {
  type Address,
  formatAddress,
  formatPrefix,
  parseAddress,
} from '../../lib/subnet/prefix.js'
import type { Entry, Registry } from '../../lib/subnet/registry.js'
import {
  type Subnet,
  configKey,
  formatSubnet,
  formatSubnetKey,
  subnetsOverlap,
  subnetsPrefix,
} from '../../lib/subnet/subnet-key.js'
import {
  HOST_ID,
  type SubnetRecord,
  formatHolder,
} from '../../lib/subnet/subnet-record.js'
import {
  deleteSubnet,
  guardsOfFree,
  putSubnet,
  releaseSubnet,
} from '../../lib/subnet/subnet-writes.js'
import { readStoredHostId } from '../flanneld/identity.js'
import { formatEvent, readJournal } from '../flanneld/journal.js'
import { type Flags, UsageError } from '../flanneld/parse-flags.js'
import { placesOf } from '../flanneld/places.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
} from './command.js'
import { askDaemon, tellDaemon } from './daemon-status.js'
import { withRegistry } from './etcd.js'

/** A living host obeys within a second or two. */
const ANSWER_TIMEOUT_MS = 30_000
const POLL_MS = 200

const FLAGS = {
  ...COMMON_FLAGS,
  host: {
    type: 'string',
    default: '',
    describe: 'reserve: host id that the subnet is for',
    environment: false,
  },
  'for-ip': {
    type: 'string',
    default: '',
    describe: 'reserve: public IP of the host that the subnet is for',
    environment: false,
  },
} as const

type LeaseFlags = Flags<typeof FLAGS>

export const leaseCommand = defineCommand({
  help: `
flannelctl lease release
flannelctl lease move HOST [SUBNET]
flannelctl lease revoke HOST
flannelctl lease allow HOST
flannelctl lease reserve SUBNET --host ID | --for-ip IP
flannelctl lease unreserve SUBNET
flannelctl lease history

release    gives this host's subnet back, and stops its daemon if one runs
move       orders a host to take another subnet, or the one that is named. Its
           containers keep their addresses, which then lead nowhere, until they
           are started again
revoke     orders a host to give its subnet back and to take none
allow      takes that order back
reserve    keeps a free subnet for a host that comes; a leased one stays with its
           holder for good
unreserve  makes a reservation free again; a host that holds it goes on with a
           lease
history    what happened to this host's lease

HOST is a host id, a public IP or a subnet, as flannelctl leases shows them.
Deleting a record is no order: its host puts it back.

  flannelctl lease move 192.0.2.7
  flannelctl lease reserve 10.5.9.0/24 --host db-1`,
  flags: FLAGS,
  run: async (flags, [action, ...words]) => {
    const run = action === undefined ? undefined : ACTIONS[action]
    if (run === undefined || words.length < run.min || words.length > run.max)
      throw new UsageError(
        'usage: flannelctl lease release | move HOST [SUBNET] | revoke HOST | allow HOST | reserve SUBNET | unreserve SUBNET | history',
      )
    return await run.act(flags, words)
  },
})

interface Action {
  readonly min: number
  readonly max: number
  act(flags: LeaseFlags, words: readonly string[]): Promise<number>
}

const ACTIONS: Readonly<Record<string, Action>> = {
  release: { min: 0, max: 0, act: release },
  move: {
    min: 1,
    max: 2,
    act: (flags, [host = '', to]) => order(flags, host, 'move', to),
  },
  revoke: { min: 1, max: 1, act: (flags, [host = '']) => order(flags, host, 'revoke') },
  allow: { min: 1, max: 1, act: (flags, [host = '']) => allow(flags, host) },
  reserve: { min: 1, max: 1, act: (flags, [subnet = '']) => reserve(flags, subnet) },
  unreserve: { min: 1, max: 1, act: (flags, [subnet = '']) => unreserve(flags, subnet) },
  history: { min: 0, max: 0, act: history },
}

/** The daemon lets go of everything in the right order; without one there is only the record. */
async function release(flags: LeaseFlags): Promise<number> {
  if ((await askDaemon(flags)) !== undefined) {
    await tellDaemon(flags, 'release-lease')
    say('the daemon gives the subnet back and stops')
    return EXIT.ok
  }
  const { hostIdFile, leaseCacheFile } = placesOf(flags)
  const hostId = await readStoredHostId(hostIdFile)
  if (hostId === undefined)
    throw new CommandFailure(
      `this host has no host id (${hostIdFile}), so it holds nothing`,
    )
  return await withRegistry(flags, async (registry, prefix) => {
    const own = (await listRecords(registry, prefix)).find(
      ({ holder }) => holder.hostId === hostId,
    )
    if (own === undefined) throw new CommandFailure('this host holds no subnet')
    // A daemon that starts without etcd would go on from it.
    await rm(leaseCacheFile, { force: true })
    await releaseSubnet(registry, prefix, hostId, own.subnet)
    say(`${formatSubnet(own.subnet)} is free`)
    return EXIT.ok
  })
}

async function order(
  flags: LeaseFlags,
  host: string,
  kind: Order['kind'],
  to?: string,
): Promise<number> {
  const wanted = to === undefined ? undefined : readSubnet(to)
  return await withRegistry(flags, async (registry, prefix) => {
    const hostId = await findHostId(registry, prefix, host)
    const key = orderKey(prefix, hostId)
    const value = formatOrder({
      kind,
      ...(wanted && { to: wanted }),
      host,
      state: 'open',
    })
    await registry.commit([], [{ kind: 'put', key, value }])
    const answer = await waitForAnswer(registry, key)
    if (answer === undefined) {
      say(`${hostId} has not answered yet; it will obey when it runs`)
      return EXIT.trouble
    }
    say(`${hostId}: ${answer.answer ?? answer.state}`)
    return answer.state === 'done' ? EXIT.ok : EXIT.failure
  })
}

async function waitForAnswer(
  registry: Registry,
  key: string,
): Promise<Order | undefined> {
  const end = performance.now() + ANSWER_TIMEOUT_MS
  while (performance.now() < end) {
    const { entry } = await registry.get(key)
    const read = entry && readOrder(entry)
    if (read === undefined) throw new CommandFailure('the order was deleted by somebody')
    if (read.state === 'done' || read.state === 'refused') return read
    await delay(POLL_MS)
  }
  return undefined
}

async function allow(flags: LeaseFlags, host: string): Promise<number> {
  return await withRegistry(flags, async (registry, prefix) => {
    const found = await findRevoked(registry, prefix, host)
    await registry.commit([], [{ kind: 'delete', key: found.key }])
    say(`${found.key.slice(ordersPrefix(prefix).length)} may hold a subnet again`)
    return EXIT.ok
  })
}

/**
 * The order to take none that a word means: by the id of the host, by what the order called
 * it, or by what it holds now. A host that obeys holds nothing.
 */
async function findRevoked(
  registry: Registry,
  prefix: string,
  host: string,
): Promise<Entry> {
  const { entries } = await registry.list(ordersPrefix(prefix))
  const revoked = entries.filter(entry => readOrder(entry)?.kind === 'revoke')
  const hostId = await findHostId(registry, prefix, host).catch(() => undefined)
  const ways = [
    revoked.filter(({ key }) => key === orderKey(prefix, host)),
    revoked.filter(entry => readOrder(entry)?.host === host),
    revoked.filter(({ key }) => hostId !== undefined && key === orderKey(prefix, hostId)),
  ]
  const [found, ...more] = ways.find(({ length }) => length > 0) ?? []
  if (found === undefined)
    throw new CommandFailure(`no order keeps ${host} from holding a subnet`)
  if (more.length === 0) return found
  const ids = [found, ...more].map(({ key }) => key.slice(ordersPrefix(prefix).length))
  throw new CommandFailure(
    `${host} was said of ${ids.join(' and ')}: say which, by its id`,
  )
}

/** Everything that `leases` shows of a host names it. An id without a lease counts too. */
async function findHostId(
  registry: Registry,
  prefix: string,
  name: string,
): Promise<string> {
  const records = await listRecords(registry, prefix)
  const found = records.find(({ subnet, holder }) =>
    [
      holder.hostId,
      holder.publicIp && formatAddress(holder.publicIp),
      holder.publicIpv6 && formatAddress(holder.publicIpv6),
      formatSubnet(subnet),
    ].includes(name),
  )
  if (found === undefined) throw new CommandFailure(`no host ${name} holds a subnet`)
  const { hostId } = found.holder
  if (hostId !== undefined) return hostId
  throw new CommandFailure(`${name} runs flannel, which knows no orders`)
}

async function reserve(flags: LeaseFlags, text: string): Promise<number> {
  const subnet = readSubnet(text)
  return await withRegistry(flags, async (registry, prefix) => {
    await refuseForeignSubnet(registry, prefix, subnet)
    const records = await listRecords(registry, prefix)
    const holder = records.find(record => subnetsOverlap(record.subnet, subnet))
    if (holder === undefined) await reserveFree(registry, prefix, subnet, flags)
    else await pin(registry, prefix, holder, flags)
    say(`${formatSubnet(subnet)} is reserved`)
    return EXIT.ok
  })
}

/** What no host can hold is not kept for one. */
async function refuseForeignSubnet(
  registry: Registry,
  prefix: string,
  subnet: Subnet,
): Promise<void> {
  const { entry } = await registry.get(configKey(prefix))
  if (entry === undefined)
    throw new CommandFailure(`etcd has no key ${configKey(prefix)}`)
  const config = parseNetworkConfig(entry.value)
  if (isSubnetOfNetwork(subnet, config)) return
  const families = config.families.map(
    ({ network, subnetLength }) => `/${subnetLength} of ${formatPrefix(network)}`,
  )
  throw new CommandFailure(
    `${formatSubnet(subnet)} is no subnet that a host could hold: it takes a ${families.join(' and a ')}, between SubnetMin and SubnetMax`,
  )
}

async function reserveFree(
  registry: Registry,
  prefix: string,
  subnet: Subnet,
  flags: LeaseFlags,
): Promise<void> {
  const { host: hostId, 'for-ip': ip } = flags
  if (hostId === '' && ip === '')
    throw new UsageError('lease reserve: say for whom, with --host or --for-ip')
  if (hostId !== '' && !HOST_ID.test(hostId))
    throw new UsageError(
      `--host ${JSON.stringify(hostId)}: a host id is up to 64 letters, digits, dots, _ or -`,
    )
  const address = ip === '' ? undefined : readAddress(ip)
  const value = formatHolder({
    ...(address?.family === 4 && { publicIp: address }),
    ...(address?.family === 6 && { publicIpv6: address }),
    backendType: '',
    ...(hostId !== '' && { hostId }),
  })
  const { succeeded } = await registry.commit(
    guardsOfFree(prefix, subnet),
    putSubnet(prefix, subnet, { value, hostId }, undefined),
  )
  if (!succeeded) throw new CommandFailure(`${formatSubnet(subnet)} was taken meanwhile`)
}

/** A record without an etcd lease does not expire. */
async function pin(
  registry: Registry,
  prefix: string,
  { key, subnet, holder, modRevision }: SubnetRecord,
  flags: LeaseFlags,
): Promise<void> {
  const { host } = flags
  if (host !== '' && host !== holder.hostId)
    throw new CommandFailure(
      `${formatSubnet(subnet)} is held by ${holder.hostId ?? 'flannel'}`,
    )
  const record = { value: formatHolder(holder), hostId: holder.hostId ?? '' }
  const { succeeded } = await registry.commit(
    [{ key, modRevision }],
    putSubnet(prefix, subnet, record, undefined),
  )
  if (!succeeded) throw new CommandFailure(`${key} changed meanwhile; try again`)
}

async function unreserve(flags: LeaseFlags, text: string): Promise<number> {
  const subnet = readSubnet(text)
  return await withRegistry(flags, async (registry, prefix) => {
    const key = formatSubnetKey(prefix, subnet)
    const record = (await listRecords(registry, prefix)).find(other => other.key === key)
    if (record?.kind !== 'reservation')
      throw new CommandFailure(`${formatSubnet(subnet)} is not reserved`)
    const { succeeded } = await registry.commit(
      [{ key, modRevision: record.modRevision }],
      deleteSubnet(prefix, subnet),
    )
    if (!succeeded) throw new CommandFailure(`${key} changed meanwhile; try again`)
    say(`${formatSubnet(subnet)} is not reserved any more`)
    return EXIT.ok
  })
}

async function history(flags: LeaseFlags): Promise<number> {
  const places = placesOf(flags)
  const events = await readJournal(places.journalFile)
  if (flags.json) printJson({ events })
  else if (events.length === 0) say('nothing is written down yet')
  else for (const event of events) say(formatEvent(event))
  return EXIT.ok
}

async function listRecords(registry: Registry, prefix: string): Promise<SubnetRecord[]> {
  const table = new LeaseTable()
  table.replace(await registry.list(subnetsPrefix(prefix)))
  return table.records()
}

function readAddress(text: string): Address {
  try {
    return parseAddress(text)
  } catch (error) {
    throw new UsageError(`--for-ip: ${(error as Error).message}`)
  }
}

function readSubnet(text: string): Subnet {
  try {
    return parseSubnet(text)
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}
