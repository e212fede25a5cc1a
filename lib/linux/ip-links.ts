import { z } from 'zod'
import { type IpFamily, ipJson, parseIpJson } from './ip-json.js'

/** The kernel's links and their addresses. */

const addressSchema = z.object({
  family: z.enum(['inet', 'inet6']),
  local: z.string(),
  prefixlen: z.number(),
  scope: z.string().default('global'),
  deprecated: z.boolean().default(false),
  temporary: z.boolean().default(false),
  dynamic: z.boolean().default(false),
  tentative: z.boolean().default(false),
})

const linkSchema = z.object({
  ifindex: z.number(),
  ifname: z.string(),
  mtu: z.number(),
  flags: z.array(z.string()),
  address: z.string().optional(),
  ifalias: z.string().optional(),
  linkinfo: z
    .object({ info_kind: z.string().optional(), info_data: z.unknown().optional() })
    .optional(),
  addr_info: z.array(z.unknown()).default([]),
})

const vxlanSchema = z.object({
  id: z.number(),
  local: z.string().optional(),
  local6: z.string().optional(),
  link: z.string().optional(),
  port: z.number(),
  learning: z.boolean().default(true),
  gbp: z.boolean().default(false),
})

const ipipSchema = z.object({ local: z.string(), remote: z.string() })

export interface LinkAddress {
  readonly family: IpFamily
  readonly local: string
  readonly prefixLength: number
  readonly scope: string
  readonly deprecated: boolean
  readonly temporary: boolean
  readonly dynamic: boolean
  readonly tentative: boolean
}

export interface Link {
  readonly index: number
  readonly name: string
  readonly mtu: number
  readonly up: boolean
  /** False when a link that is up has no cable, or nothing at its other end. */
  readonly hasCarrier: boolean
  /** `bridge`, `veth`, `vxlan`, `tun` …; undefined for plain interfaces. */
  readonly kind: string | undefined
  readonly mac: string | undefined
  readonly alias: string | undefined
  /** Of a link of that kind. */
  readonly vxlan: Vxlan | undefined
  readonly ipip: Ipip | undefined
  readonly addresses: readonly LinkAddress[]
}

export interface Vxlan {
  readonly vni: number
  readonly port: number
  readonly local: string | undefined
  /** The link that its packets leave by. */
  readonly link: string | undefined
  readonly learning: boolean
  readonly gbp: boolean
}

/** Addresses of the outer packets; `any` for all. */
export interface Ipip {
  readonly local: string
  readonly remote: string
}

/** Every link with its addresses. */
export async function listLinks(): Promise<Link[]> {
  return parseLinks(await ipJson(['-details', 'address', 'show']))
}

/** Reads what `ip -json -details address show` prints. Throws SyntaxError. */
export function parseLinks(text: string): Link[] {
  return parseIpJson(text, z.array(linkSchema)).map(link => ({
    index: link.ifindex,
    name: link.ifname,
    mtu: link.mtu,
    up: link.flags.includes('UP'),
    hasCarrier: !link.flags.includes('NO-CARRIER'),
    kind: link.linkinfo?.info_kind,
    mac: link.address,
    alias: link.ifalias,
    vxlan: readVxlan(link.linkinfo),
    ipip: readIpip(link.linkinfo),
    addresses: link.addr_info.flatMap(readAddress),
  }))
}

/** ip(8) lists peers and empty objects among the addresses; those are none of an interface. */
function readAddress(value: unknown): LinkAddress[] {
  const parsed = addressSchema.safeParse(value)
  if (!parsed.success) return []
  const { family, local, prefixlen, scope, deprecated, temporary, dynamic, tentative } =
    parsed.data
  return [
    {
      family: family === 'inet' ? 4 : 6,
      local,
      prefixLength: prefixlen,
      scope,
      deprecated,
      temporary,
      dynamic,
      tentative,
    },
  ]
}

function readVxlan(
  info: { info_kind?: string | undefined; info_data?: unknown } | undefined,
): Vxlan | undefined {
  if (info?.info_kind !== 'vxlan') return undefined
  const { data } = vxlanSchema.safeParse(info.info_data)
  return (
    data && {
      vni: data.id,
      port: data.port,
      local: data.local ?? data.local6,
      link: data.link,
      learning: data.learning,
      gbp: data.gbp,
    }
  )
}

function readIpip(
  info: { info_kind?: string | undefined; info_data?: unknown } | undefined,
): Ipip | undefined {
  return info?.info_kind === 'ipip'
    ? ipipSchema.safeParse(info.info_data).data
    : undefined
}
