/**
 * What must hold of a network in which nothing is broken any more, read from the kernels and
 * from etcd: by ip(8), bridge(8) and etcdctl(1), with nothing of the daemon's code.
 */
import { readFile, readdir, readlink } from 'node:fs/promises'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { type Backend, type Cluster, PREFIX } from './cluster.js'

/** A daemon at rest has some thirty. */
const MAX_DESCRIPTORS = 80

const MOST_PINGED = 3

export interface Record {
  /** 10.5.72.0/24 */
  readonly subnet: string
  readonly publicIp: string
  readonly mac: string | undefined
}

/** What is remembered from before the faults, to be found again. */
export interface Memory {
  readonly subnets: ReadonlyMap<string, string>
  readonly foreign: ReadonlyMap<string, string>
}

export async function remember(cluster: Cluster): Promise<Memory> {
  const records = await readRecords(cluster)
  const subnets = records.map(({ publicIp, subnet }) => [publicIp, subnet] as const)
  const foreign = await Promise.all(
    cluster.hosts.map(async host => [host.name, await readForeign(host)] as const),
  )
  return { subnets: new Map(subnets), foreign: new Map(foreign) }
}

/** One sentence for each that does not hold. */
export async function findViolations(
  cluster: Cluster,
  memory: Memory,
): Promise<string[]> {
  const records = await readRecords(cluster)
  const found = await Promise.all(
    cluster.hosts.map(host => checkHost(cluster, host, records, memory)),
  )
  const paths = await countPaths(cluster)
  return [...checkRecords(cluster, records, memory), ...found.flat(), ...paths]
}

function checkRecords(
  { hosts }: Cluster,
  records: readonly Record[],
  { subnets }: Memory,
): string[] {
  const violations: string[] = []
  for (const host of hosts) {
    const own = records.filter(({ publicIp }) => publicIp === host.address)
    if (own.length !== 1)
      violations.push(`etcd has ${own.length} records of ${host.name}`)
    const [{ subnet } = { subnet: 'none' }] = own
    const before = subnets.get(host.address)
    if (subnet !== before)
      violations.push(`${host.name} holds ${subnet} instead of ${before ?? 'none'}`)
  }
  if (new Set(records.map(({ subnet }) => subnet)).size !== records.length)
    violations.push('a subnet is held twice')
  return violations
}

async function checkHost(
  cluster: Cluster,
  host: LabHost,
  records: readonly Record[],
  { foreign }: Memory,
): Promise<string[]> {
  const remotes = records.filter(({ publicIp }) => publicIp !== host.address)
  const own = records.find(({ publicIp }) => publicIp === host.address)
  const violations = await checkKernel(cluster.backend, host, remotes)
  const environment = await readFile(host.daemon.subnetFile, 'utf8')
  const told = own?.subnet.replace('.0/', '.1/') ?? 'none'
  if (!environment.includes(`FLANNEL_SUBNET=${told}\n`))
    violations.push(`subnet.env does not say ${told}`)
  if ((await readForeign(host)) !== foreign.get(host.name))
    violations.push('something of another owner was changed')
  const { length } = await readdir(`/proc/${host.daemon.pid}/fd`)
  if (length > MAX_DESCRIPTORS) violations.push(`the daemon has ${length} descriptors`)
  // All others, of a few: the kernel has one table of neighbours for all namespaces.
  const index = cluster.hosts.indexOf(host)
  const ring = [...cluster.hosts.slice(index + 1), ...cluster.hosts.slice(0, index)]
  const others = ring.slice(0, MOST_PINGED)
  const pings = await host.container.ping(
    others.map(({ container }) => container.address),
    { timeoutMs: 2000 },
  )
  for (const { target, received } of pings)
    if (received !== 1) violations.push(`its container does not reach ${target}`)
  return violations.map(violation => `${host.name}: ${violation}`)
}

async function checkKernel(
  backend: Backend,
  host: LabHost,
  remotes: readonly Record[],
): Promise<string[]> {
  const routes = (await ip(host, 'route', 'show', 'root', '10.5.0.0/16')).sort()
  const expected = expectedRoutes(backend, host, remotes).sort()
  const violations = difference('route', expected, routes.map(describeRoute))
  if (backend !== 'vxlan') return violations
  const neighbours = (
    await ip(host, 'neigh', 'show', 'dev', 'flannel.1', 'nud', 'permanent')
  ).map(({ dst, lladdr }) => `${dst ?? ''} ${lladdr ?? ''}`)
  const entries = JSON.parse(
    await host.run(['bridge', '-json', 'fdb', 'show', 'dev', 'flannel.1']),
  ) as Row[]
  return [
    ...violations,
    ...difference(
      'neighbour',
      remotes.map(({ subnet, mac }) => `${subnet.replace(/\/.*/, '')} ${mac ?? ''}`),
      neighbours,
    ),
    ...difference(
      'FDB entry',
      remotes.map(({ publicIp, mac }) => `${mac ?? ''} ${publicIp}`),
      entries
        .filter(({ dst }) => dst !== undefined)
        .map(({ mac, dst }) => `${mac ?? ''} ${dst ?? ''}`),
    ),
  ]
}

function expectedRoutes(
  backend: Backend,
  host: LabHost,
  remotes: readonly Record[],
): string[] {
  const { address } = host.container
  const bridge = `${address.replace(/\d+$/, '0')}/24 via - dev docker0`
  if (backend === 'udp') return [bridge, '10.5.0.0/16 via - dev flannel0']
  return [
    bridge,
    ...remotes.map(({ subnet, publicIp }) =>
      backend === 'vxlan'
        ? `${subnet} via ${subnet.replace(/\/.*/, '')} dev flannel.1`
        : `${subnet} via ${publicIp} dev eth0`,
    ),
  ]
}

type Row = Partial<{
  dst: string
  gateway: string
  dev: string
  lladdr: string
  mac: string
}>

function describeRoute({ dst = '', gateway = '-', dev = '' }: Row): string {
  return `${dst} via ${gateway} dev ${dev}`
}

function difference(
  what: string,
  expected: readonly string[],
  found: readonly string[],
): string[] {
  return [
    ...expected.filter(each => !found.includes(each)).map(each => `no ${what} ${each}`),
    ...found.filter(each => !expected.includes(each)).map(each => `a ${what} ${each}`),
  ]
}

async function ip(host: LabHost, ...words: readonly string[]): Promise<Row[]> {
  const text = await host.run(['ip', '-json', '-4', ...words])
  return text.trim() === '' ? [] : (JSON.parse(text) as Row[])
}

async function readRecords({ etcd }: Cluster): Promise<Record[]> {
  const prefix = `${PREFIX}/subnets/`
  const text = await etcd.ctl('get', '--prefix', prefix, '-w', 'json')
  const { kvs = [] } = JSON.parse(text) as { kvs?: { key: string; value: string }[] }
  return kvs.map(({ key, value }) => {
    const { PublicIP, BackendData } = JSON.parse(plain(value)) as {
      PublicIP: string
      BackendData?: { VtepMAC?: string }
    }
    return {
      subnet: plain(key).slice(prefix.length).replace('-', '/'),
      publicIp: PublicIP,
      mac: BackendData?.VtepMAC,
    }
  })
}

function plain(base64: string): string {
  return Buffer.from(base64, 'base64').toString()
}

/** All of what cluster.ts has laid, as the tools print it. */
async function readForeign(host: LabHost): Promise<string> {
  return await host.run([
    'sh',
    '-c',
    `ip route show proto 99; ip rule; ip -brief address show other0 | tr -s ' '
iptables -S FORWARD | grep -F 203.0.113; iptables -t nat -S POSTROUTING | grep -F 203.0.113
nft list table inet other`,
  ])
}

/** A path for each host with the backend udp, and none of earlier runs. */
async function countPaths({ backend, hosts }: Cluster): Promise<string[]> {
  const spaces = await Promise.all(
    hosts.map(({ daemon }) => readlink(`/proc/${daemon.pid}/ns/net`)),
  )
  const counts = new Map(spaces.map(space => [space, 0]))
  for (const pid of (await readdir('/proc')).filter(name => /^\d+$/.test(name))) {
    const comm = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')
    if (comm !== 'flanneld-path\n') continue
    const space = await readlink(`/proc/${pid}/ns/net`).catch(() => '')
    const count = counts.get(space)
    if (count !== undefined) counts.set(space, count + 1)
  }
  const expected = backend === 'udp' ? 1 : 0
  return [...counts.values()].flatMap((count, index) =>
    count === expected ? [] : [`${hosts[index]?.name ?? ''} has ${count} packet paths`],
  )
}
