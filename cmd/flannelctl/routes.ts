import { IcmpEcho } from '../../lib/probe/icmp-echo.js'
import { type NextHopDevice, routesTo } from '../../lib/linux/ip-routes.js'
import { firstHostAddress, formatAddress } from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'
import {
  CommandFailure,
  EXIT,
  COMMON_FLAGS,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'
import { type DaemonStatus, askDaemon } from './daemon-status.js'
import { inChunks } from '../../lib/subnet/in-chunks.js'
import { formatTable } from './table.js'

/** Hosts of one cluster answer within milliseconds. */
const PROBE_TIMEOUT_MS = 1000
const PROBES_AT_ONCE = 64

export const routesCommand = defineCommand({
  help: `
flannelctl routes [flags]

Lists the remotes that this host's daemon knows. KERNEL is what the kernel
answers when it is asked the way (ip route get): ok, or what it does instead.
--probe pings every remote's public IP as well.

  flannelctl routes
  flannelctl routes --probe

Exits with ${EXIT.trouble} when the kernel has another way to a remote, or none.`,
  flags: {
    ...COMMON_FLAGS,
    probe: {
      type: 'boolean',
      default: 'false',
      describe: 'ping the public IP of every remote (needs the package raw-socket)',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('routes', words)
    const status = await askDaemon(flags)
    if (status?.remotes === undefined) {
      throw new CommandFailure(
        `flanneld ${status === undefined ? 'does not run' : `is ${status.phase}`} on this host; flannelctl leases shows what etcd knows`,
      )
    }
    const routes = await checkKernel(status)
    const probed = flags.probe ? await probe(routes) : undefined
    if (flags.json) printJson({ routes: probed ?? routes })
    else print(routes, probed)
    return routes.every(route => route.kernel === 'ok' || route.device === null)
      ? EXIT.ok
      : EXIT.trouble
  },
})

interface RemoteRoute {
  readonly subnet: string
  readonly hostId: string | null
  readonly publicIp: string
  readonly backend: string
  readonly device: string | null
  readonly nextHop: string | null
  /** 'ok', or what the kernel does with a packet to the subnet instead. */
  readonly kernel: string
}

interface ProbedRoute extends RemoteRoute {
  /** Milliseconds to the public IP and back; null when nothing came back. */
  readonly roundTripMs: number | null
}

/** Asks the kernel for the way to the first address of each subnet, all in one process. */
async function checkKernel({
  remotes = [],
  backend,
}: DaemonStatus): Promise<RemoteRoute[]> {
  const targets = remotes.map(({ subnet }) => firstAddresses(subnet))
  const ways = await routesTo(targets.flat())
  return remotes.map(({ subnet, record, device, devices, nextHop }, index) => {
    const found = ways.splice(0, targets[index]?.length)
    const isRight = (way: NextHopDevice | undefined, at: number): boolean =>
      way?.device === (devices?.[at] ?? device)
    const wrong = found.find((way, at) => !isRight(way, at))
    const kernel =
      device === undefined
        ? '-'
        : found.every(isRight)
          ? 'ok'
          : wrong === undefined
            ? 'no route'
            : `via ${wrong.gateway ?? wrong.device}`
    return {
      subnet,
      hostId: record.HostID ?? null,
      publicIp: record.PublicIP,
      backend: record.BackendType ?? backend?.type ?? '-',
      device: device ?? null,
      nextHop: nextHop ?? null,
      kernel,
    }
  })
}

function firstAddresses(subnet: string): string[] {
  return parseSubnetText(subnet).map(range => formatAddress(firstHostAddress(range)))
}

async function probe(routes: readonly RemoteRoute[]): Promise<ProbedRoute[]> {
  const echo = await openEcho()
  try {
    return await inChunks(routes, PROBES_AT_ONCE, async route => {
      const time = await echo.ping(route.publicIp, PROBE_TIMEOUT_MS)
      return { ...route, roundTripMs: time ?? null }
    })
  } finally {
    echo.close()
  }
}

async function openEcho(): Promise<IcmpEcho> {
  try {
    return await IcmpEcho.open()
  } catch (error) {
    throw new CommandFailure(`cannot probe: ${(error as Error).message}`)
  }
}

function print(
  routes: readonly RemoteRoute[],
  probed: readonly ProbedRoute[] | undefined,
): void {
  if (routes.length === 0) {
    process.stdout.write('no other host has a subnet\n')
    return
  }
  const header = [
    'SUBNET',
    'HOST ID',
    'PUBLIC IP',
    'BACKEND',
    'DEVICE',
    'NEXT HOP',
    'KERNEL',
  ]
  const rows = routes.map(route => [
    route.subnet,
    route.hostId ?? '-',
    route.publicIp,
    route.backend,
    route.device ?? '-',
    route.nextHop ?? '-',
    route.kernel,
  ])
  process.stdout.write(
    probed === undefined
      ? formatTable(header, rows)
      : formatTable(
          [...header, 'PING'],
          rows.map((row, index) => [...row, formatTime(probed[index]?.roundTripMs)]),
        ),
  )
}

function formatTime(milliseconds: number | null | undefined): string {
  return typeof milliseconds === 'number' ? `${milliseconds.toFixed(2)} ms` : 'no answer'
}
