import { listLastHolders } from '../../lib/subnet/last-holders.js'
import { LeaseTable } from '../../lib/subnet/lease-table.js'
import {
  type FamilyConfig,
  parseNetworkConfig,
  subnetCount,
} from '../../lib/subnet/network-config.js'
import { formatPrefix, overlaps } from '../../lib/subnet/prefix.js'
import { configKey, subnetPrefix, subnetsPrefix } from '../../lib/subnet/subnet-key.js'
import type { SubnetRecord } from '../../lib/subnet/subnet-record.js'
import { UsageError } from '../flanneld/parse-flags.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
} from './command.js'
import { withRegistry } from './etcd.js'
import { formatTable } from './table.js'

/** Newcomers of so many days tell how many come. */
const LOOK_BACK_DAYS = 30
const DAY_MS = 86_400_000

export const networkCommand = defineCommand({
  help: `
flannelctl network usage [flags]

Counts the subnets that are leased, reserved and free, and says how long the free
ones last if hosts come as they did during the last ${LOOK_BACK_DAYS} days.
flannelctl leases says who has them.

  flannelctl network usage

Exits with ${EXIT.trouble} when no subnet is free.`,
  flags: COMMON_FLAGS,
  run: async (flags, [action, ...rest]) => {
    if (action !== 'usage' || rest.length > 0)
      throw new UsageError('usage: flannelctl network usage')
    const usages = await withRegistry(flags, async (registry, prefix) => {
      const { entry } = await registry.get(configKey(prefix))
      if (entry === undefined)
        throw new CommandFailure(`etcd has no key ${configKey(prefix)}`)
      const table = new LeaseTable()
      table.replace(await registry.list(subnetsPrefix(prefix)))
      const marks = await listLastHolders(registry, prefix)
      const newcomers = marks.filter(
        ({ since }) => Date.now() - since.getTime() < LOOK_BACK_DAYS * DAY_MS,
      )
      return parseNetworkConfig(entry.value).families.map(family =>
        measure(family, table.records(), newcomers.length),
      )
    })
    if (flags.json) printJson({ networks: usages })
    else print(usages)
    return usages.some(({ free }) => free === 0) ? EXIT.trouble : EXIT.ok
  },
})

interface Usage {
  readonly network: string
  readonly subnets: number
  readonly leased: number
  readonly reserved: number
  readonly free: number
  /** Days until none is free; null when nobody came lately. */
  readonly lastsDays: number | null
}

function measure(
  family: FamilyConfig,
  records: readonly SubnetRecord[],
  newcomers: number,
): Usage {
  const { network } = family
  const here = records.filter(({ subnet }) => {
    const half = subnetPrefix(subnet, network.family)
    return half !== undefined && overlaps(half, network)
  })
  const subnets = Number(subnetCount(family))
  const reserved = here.filter(({ kind }) => kind === 'reservation').length
  const free = Math.max(0, subnets - here.length)
  return {
    network: formatPrefix(network),
    subnets,
    leased: here.length - reserved,
    reserved,
    free,
    lastsDays: newcomers === 0 ? null : Math.floor((free / newcomers) * LOOK_BACK_DAYS),
  }
}

function print(usages: readonly Usage[]): void {
  process.stdout.write(
    formatTable(
      ['NETWORK', 'SUBNETS', 'LEASED', 'RESERVED', 'FREE', 'LASTS'],
      usages.map(({ network, subnets, leased, reserved, free, lastsDays }) => [
        network,
        String(subnets),
        String(leased),
        String(reserved),
        String(free),
        lastsDays === null ? 'nobody came lately' : `about ${lastsDays} days`,
      ]),
    ),
  )
}
