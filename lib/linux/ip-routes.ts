import { z } from 'zod'
import { explainIp } from './ip-batch.js'
import { type IpFamily, ipJson, parseIpJson } from './ip-json.js'
import { CommandError, run } from './run.js'

/** The kernel's routes, and how it would reach an address. */

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

/** Reads what `ip -json route show` prints. Throws SyntaxError. */
export function parseRoutes(text: string, family: IpFamily): Route[] {
  return parseIpJson(text, z.array(routeSchema)).map(route => toRoute(route, family))
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
  const [route] = parseIpJson(text, z.array(routeSchema))
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
