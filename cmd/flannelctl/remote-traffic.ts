import { z } from 'zod'
import { type NftTable, listSet } from '../../lib/linux/nft.js'
import { OwnedTable } from '../../lib/linux/nft-owned-table.js'
import {
  FAMILIES,
  type Family,
  containsPrefix,
  formatPrefix,
} from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'

/** Packets and bytes of their IP headers and what follows, since counting began. */
export interface Traffic {
  readonly sentPackets: number
  readonly sentBytes: number
  readonly receivedPackets: number
  readonly receivedBytes: number
}

const NONE: Traffic = {
  sentPackets: 0,
  sentBytes: 0,
  receivedPackets: 0,
  receivedBytes: 0,
}

/** Elements of one line of nft(8). */
const AT_ONCE = 500

const WORDS = { 4: { type: 'ipv4_addr', ip: 'ip' }, 6: { type: 'ipv6_addr', ip: 'ip6' } }

const elementSchema = z.object({
  elem: z.object({
    val: z.object({ prefix: z.object({ addr: z.string(), len: z.number() }) }),
    counter: z.object({ packets: z.number(), bytes: z.number() }),
  }),
})

/**
 * Counts what this host and each remote send each other, whichever backend carries
 * it: in a table of nftables that the kernel takes away with this process. Nothing
 * counts, and nothing costs, when nobody looks.
 */
export class RemoteTraffic {
  readonly #table: NftTable
  readonly #owned: OwnedTable
  readonly #subnets: readonly string[]

  private constructor(table: NftTable, owned: OwnedTable, subnets: readonly string[]) {
    this.#table = table
    this.#owned = owned
    this.#subnets = subnets
  }

  /** @param subnets of the remotes, as formatSubnet writes them. Throws Error. */
  static async open(subnets: readonly string[]): Promise<RemoteTraffic> {
    const table: NftTable = { family: 'inet', name: `flannel-top-${process.pid}` }
    const owned = await OwnedTable.open(table, linesToCount(table, subnets))
    return new RemoteTraffic(table, owned, subnets)
  }

  /** Throws Error when nothing counts any more. */
  async read(): Promise<ReadonlyMap<string, Traffic>> {
    this.#owned.check()
    const [sent, received] = [new Map<string, Count>(), new Map<string, Count>()]
    for (const family of FAMILIES) {
      await this.#readSet(`out${family}`, sent)
      await this.#readSet(`in${family}`, received)
    }
    return new Map(
      this.#subnets.map(subnet => {
        const ranges = parseSubnetText(subnet).map(formatPrefix)
        const out = sum(ranges.map(range => sent.get(range)))
        const back = sum(ranges.map(range => received.get(range)))
        return [
          subnet,
          {
            sentPackets: out.packets,
            sentBytes: out.bytes,
            receivedPackets: back.packets,
            receivedBytes: back.bytes,
          },
        ]
      }),
    )
  }

  async #readSet(name: string, counts: Map<string, Count>): Promise<void> {
    for (const each of await listSet(this.#table, name)) {
      const { elem } = elementSchema.parse(each)
      const { addr, len } = elem.val.prefix
      counts.set(`${addr}/${len}`, elem.counter)
    }
  }

  async close(): Promise<void> {
    await this.#owned.close()
  }
}

interface Count {
  readonly packets: number
  readonly bytes: number
}

function sum(counts: readonly (Count | undefined)[]): Count {
  let [packets, bytes] = [0, 0]
  for (const count of counts) {
    packets += count?.packets ?? 0
    bytes += count?.bytes ?? 0
  }
  return { packets, bytes }
}

function linesToCount({ family, name }: NftTable, subnets: readonly string[]): string[] {
  const table = `${family} ${name}`
  const chain = (hook: string, priority: string): string =>
    `add chain ${table} ${hook} { type filter hook ${hook} priority ${priority}; }`
  const lines = [chain('postrouting', '300'), chain('prerouting', '-300')]
  const all = subnets.flatMap(parseSubnetText)
  // A set takes no range twice, nor one inside another.
  const ranges = all.filter(
    (range, at) =>
      !all.some(
        (other, index) =>
          index !== at &&
          containsPrefix(other, range) &&
          (other.length < range.length || index < at),
      ),
  )
  for (const each of FAMILIES) {
    const own = ranges.filter(range => range.family === each).map(formatPrefix)
    lines.push(...setLines(table, each, 'out', own), ...setLines(table, each, 'in', own))
    const { ip } = WORDS[each]
    lines.push(
      `add rule ${table} postrouting ${ip} daddr @out${each}`,
      `add rule ${table} prerouting ${ip} saddr @in${each}`,
    )
  }
  return lines
}

function setLines(
  table: string,
  family: Family,
  direction: 'in' | 'out',
  ranges: readonly string[],
): string[] {
  const set = `${table} ${direction}${family}`
  const lines = [
    `add set ${set} { type ${WORDS[family].type}; flags interval; counter; }`,
  ]
  for (let at = 0; at < ranges.length; at += AT_ONCE)
    lines.push(`add element ${set} { ${ranges.slice(at, at + AT_ONCE).join(', ')} }`)
  return lines
}

/** What has come between two readings, per second. */
export function ratesOf(
  before: ReadonlyMap<string, Traffic>,
  after: ReadonlyMap<string, Traffic>,
  seconds: number,
): Map<string, Traffic> {
  const rates = new Map<string, Traffic>()
  for (const [subnet, now] of after) {
    const then = before.get(subnet) ?? NONE
    const rate = (name: keyof Traffic): number =>
      Math.max(0, now[name] - then[name]) / seconds
    rates.set(subnet, {
      sentPackets: rate('sentPackets'),
      sentBytes: rate('sentBytes'),
      receivedPackets: rate('receivedPackets'),
      receivedBytes: rate('receivedBytes'),
    })
  }
  return rates
}
