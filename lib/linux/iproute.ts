import { z } from 'zod'
import { explainIp } from './ip-batch.js'
import { CommandError, type RunOptions, run } from './run.js'

/**
 * What the kernel's links, addresses and routes are, and how to change them,
 * through iproute2: operators can replay every line, and one batch is fast
 * enough (10,000 routes in 0.1 s).
 */

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

const neighbourSchema = z.object({
  dst: z.string(),
  lladdr: z.string().optional(),
  state: z.array(z.string()).default([]),
})

const fdbSchema = z.object({
  mac: z.string(),
  dst: z.string().optional(),
  state: z.string().optional(),
})

const nextHopSchema = z.object({
  gateway: z.string().optional(),
  via: z.object({ host: z.string() }).optional(),
  dev: z.string().optional(),
})

const routeSchema = z.object({
  type: z.string().default('unicast'),
  dst: z.string(),
  gateway: z.string().optional(),
  via: z.object({ host: z.string() }).optional(),
  dev: z.string().optional(),
  protocol: z.string().default('boot'),
  scope: z.string().optional(),
  metric: z.number().default(0),
  prefsrc: z.string().optional(),
  flags: z.array(z.string()).default([]),
  nexthops: z.array(nextHopSchema).default([]),
})

export type IpFamily = 4 | 6

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

/** A permanent entry of the neighbour table. */
export interface Neighbour {
  readonly address: string
  readonly mac: string
}

/** A permanent entry of a VXLAN device's forwarding database. */
export interface FdbEntry {
  readonly mac: string
  readonly destination: string
}

export interface NextHopDevice {
  readonly device: string
  readonly gateway: string | undefined
}

export interface Route {
  /** Always with a length: `0.0.0.0/0` for the default route. */
  readonly destination: string
  /** `unicast`, `blackhole` … */
  readonly type: string
  readonly protocol: string
  readonly metric: number
  readonly source: string | undefined
  readonly flags: readonly string[]
  /** One, or several for a multipath route, or none for a blackhole. */
  readonly nextHops: readonly NextHopDevice[]
}

/** Every link with its addresses. */
export async function listLinks(): Promise<Link[]> {
  return parseLinks(await ipJson(['-details', 'address', 'show']))
}

/** Reads what `ip -json -details address show` prints. Throws SyntaxError. */
export function parseLinks(text: string): Link[] {
  return parseJson(text, z.array(linkSchema)).map(link => ({
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

/**
 * The routes of the main table. @param protocol of those alone. @param maxOutput bytes
 * of JSON that are read; more is a CommandError.
 */
export async function listRoutes(
  family: IpFamily,
  { protocol, maxOutput }: { protocol?: number; maxOutput?: number } = {},
): Promise<Route[]> {
  const only = protocol === undefined ? [] : ['proto', String(protocol)]
  const args = [`-${family}`, 'route', 'show', ...only]
  const text = await ipJson(args, maxOutput === undefined ? {} : { maxOutput })
  return parseRoutes(text, family)
}

/** Permanent neighbours on a device. None when there is no such device. */
export async function listNeighbours(
  family: IpFamily,
  device: string,
): Promise<Neighbour[]> {
  const args = [`-${family}`, 'neigh', 'show', 'dev', device, 'nud', 'permanent']
  const text = await ofDevice(() => ipJson(args))
  return parseJson(text, z.array(neighbourSchema)).flatMap(({ dst, lladdr }) =>
    lladdr === undefined ? [] : [{ address: dst, mac: lladdr }],
  )
}

/** Permanent entries of a VXLAN device. None when there is no such device. */
export async function listFdb(device: string): Promise<FdbEntry[]> {
  const args = ['-json', 'fdb', 'show', 'dev', device]
  const text = await ofDevice(() => run('bridge', args))
  return parseJson(text, z.array(fdbSchema)).flatMap(({ mac, dst, state }) =>
    dst === undefined || state !== 'permanent' ? [] : [{ mac, destination: dst }],
  )
}

async function ofDevice(list: () => Promise<string>): Promise<string> {
  try {
    return await list()
  } catch (error) {
    if (/Cannot find device|No such device/.test((error as Error).message)) return ''
    throw error
  }
}

/** Reads what `ip -json route show` prints. Throws SyntaxError. */
export function parseRoutes(text: string, family: IpFamily): Route[] {
  return parseJson(text, z.array(routeSchema)).map(route => toRoute(route, family))
}

function toRoute(route: z.infer<typeof routeSchema>, family: IpFamily): Route {
  const gateway = route.gateway ?? route.via?.host
  const single = route.dev === undefined ? [] : [{ device: route.dev, gateway }]
  const several = route.nexthops.flatMap(hop =>
    hop.dev === undefined
      ? []
      : [{ device: hop.dev, gateway: hop.gateway ?? hop.via?.host }],
  )
  return {
    destination: withLength(route.dst, family),
    type: route.type,
    protocol: route.protocol,
    metric: route.metric,
    source: route.prefsrc,
    flags: route.flags,
    nextHops: several.length > 0 ? several : single,
  }
}

function withLength(destination: string, family: IpFamily): string {
  if (destination === 'default') return family === 4 ? '0.0.0.0/0' : '::/0'
  if (destination.includes('/')) return destination
  return `${destination}/${family === 4 ? 32 : 128}`
}

/** How the kernel would reach an address. Throws CommandError when it cannot. */
export async function routeTo(
  address: string,
): Promise<NextHopDevice & { readonly source: string | undefined }> {
  const text = await ipJson(['route', 'get', address])
  const [route] = parseJson(text, z.array(routeSchema))
  if (route?.dev === undefined) throw new Error(`there is no route to ${address}`)
  return {
    device: route.dev,
    gateway: route.gateway ?? route.via?.host,
    source: route.prefsrc,
  }
}

/**
 * How the kernel would reach each of the addresses, asked in one process;
 * undefined for those that it cannot reach.
 *
 * @param more words that tell where the packets come from, as `from 10.5.1.0`.
 */
export async function routesTo(
  addresses: readonly string[],
  more = '',
): Promise<(NextHopDevice | undefined)[]> {
  if (addresses.length === 0) return []
  const input = addresses.map(address => `route get ${address} ${more}\n`).join('')
  const { stdout, failed } = await forcedBatch(input)
  const answers = stdout
    .split('\n')
    .filter(line => line.trim() !== '')
    .map(line => z.array(routeSchema).parse(JSON.parse(line)))
  if (answers.length + failed.size !== addresses.length)
    throw new Error(
      `ip route get: ${answers.length + failed.size} answers to ${addresses.length} questions`,
    )
  return addresses.map((_, index) => {
    if (failed.has(index + 1)) return undefined
    const route = answers.shift()?.[0]
    if (route?.dev === undefined) return undefined
    return { device: route.dev, gateway: route.gateway ?? route.via?.host }
  })
}

/** Runs every line, whatever fails; says the numbers of the lines that did. */
async function forcedBatch(
  input: string,
): Promise<{ stdout: string; failed: ReadonlySet<number> }> {
  try {
    const stdout = await run('ip', ['-json', '-force', '-batch', '-'], { input })
    return { stdout, failed: new Set() }
  } catch (error) {
    // One that was killed or never started has answered nothing.
    if (!(error instanceof CommandError) || error.exitCode === null)
      throw explainIp(error)
    const numbers = Array.from(error.stderr.matchAll(/Command failed -:(\d+)/g), match =>
      Number(match[1]),
    )
    return { stdout: error.stdout, failed: new Set(numbers) }
  }
}

async function ipJson(
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  try {
    return await run('ip', ['-json', ...args], options)
  } catch (error) {
    throw explainIp(error)
  }
}

/** iproute2 prints nothing at all where an empty list is meant. */
function parseJson<Schema extends z.ZodType>(
  text: string,
  schema: Schema,
): z.output<Schema> {
  try {
    return schema.parse(text.trim() === '' ? [] : JSON.parse(text))
  } catch (cause) {
    const why = cause instanceof z.ZodError ? z.prettifyError(cause) : String(cause)
    throw new SyntaxError(`cannot read what ip(8) printed: ${why}`, { cause })
  }
}
