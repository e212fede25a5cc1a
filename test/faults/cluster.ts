import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { Lab } from '../../cmd/flannelctl/lab/lab.js'
import { ipInside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { run } from '../../lib/linux/run.js'
import { AskedProcess } from './asked-process.js'
import { EtcdMembers } from './etcd-members.js'
import { Traffic } from './traffic.js'

const PROXY = fileURLToPath(new URL('./etcd-proxy-main.js', import.meta.url))
const PROXY_ADDRESS = '192.168.77.9:2379'

export const BACKENDS = ['udp', 'vxlan', 'host-gw'] as const
export type Backend = (typeof BACKENDS)[number]

export const PREFIX = '/coreos.com/network'
export const NETWORK = '10.5.0.0/16'

export interface ClusterOptions {
  readonly backend: Backend
  readonly members: 1 | 3
  /** Hosts reach etcd by a proxy that can be slow and silent. */
  readonly isProxied?: boolean
  readonly hosts?: number
  readonly flags?: readonly string[]
  /** Without the traffic in the background. */
  readonly isQuiet?: boolean
}

export interface ProxyTrouble {
  readonly delayMs: number
  readonly isFrozen: boolean
}

/** Hosts with containers that talk all the time, and all that can be broken about them. */
export class Cluster {
  readonly backend: Backend
  readonly lab: Lab
  readonly etcd: EtcdMembers
  /** What all daemons write to: a file system of its own, of 64 MiB. */
  readonly directory: string
  readonly #proxy: AskedProcess | undefined
  #traffic: Traffic | undefined

  private constructor(
    backend: Backend,
    lab: Lab,
    etcd: EtcdMembers,
    directory: string,
    proxy: AskedProcess | undefined,
  ) {
    this.backend = backend
    this.lab = lab
    this.etcd = etcd
    this.directory = directory
    this.#proxy = proxy
  }

  static async open(options: ClusterOptions): Promise<Cluster> {
    const { backend, members, isProxied = false, hosts = 3, flags = [] } = options
    const { isQuiet = false } = options
    const directory = await mkdtemp(join(tmpdir(), 'flanneld-faults-'))
    const runDir = join(directory, 'hosts')
    await mkdir(runDir)
    await run('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', runDir])
    const name = `t-f${backend.slice(0, 2)}`
    const namespace = underlayNamespace(name)
    const etcd = new EtcdMembers(namespace, directory, members)
    const endpoints = isProxied ? [`http://${PROXY_ADDRESS}`] : etcd.endpoints
    const lab = await Lab.make({
      name,
      hosts,
      runDir,
      flags: [`--etcd-endpoints=${endpoints.join(',')}`, ...flags],
    })
    let proxy: AskedProcess | undefined
    try {
      await ipInside(
        namespace,
        [2, 3, 9].map(number => `address add 192.168.77.${number}/24 dev br0`),
      )
      if (isProxied) {
        const [target = ''] = etcd.endpoints.map(url => url.replace('http://', ''))
        proxy = await AskedProcess.start(namespace, PROXY, PROXY_ADDRESS, target)
      }
      await etcd.start()
      const cluster = new Cluster(backend, lab, etcd, directory, proxy)
      await cluster.storeConfig()
      await Promise.all(lab.hosts.map(host => layForeign(host)))
      await lab.startHosts()
      if (!isQuiet)
        cluster.#traffic = await Traffic.start(
          lab.hosts.map(({ container }) => container),
        )
      return cluster
    } catch (error) {
      await proxy?.close()
      await etcd.killAll()
      await lab.close()
      throw error
    }
  }

  get hosts(): readonly LabHost[] {
    return this.lab.hosts
  }

  get traffic(): Traffic {
    if (this.#traffic === undefined) throw new Error('the cluster is not open')
    return this.#traffic
  }

  async slowEtcd(trouble: ProxyTrouble): Promise<void> {
    if (this.#proxy === undefined) throw new Error('the cluster has no proxy')
    await this.#proxy.ask(JSON.stringify(trouble))
  }

  async storeConfig(): Promise<void> {
    const config = { Network: NETWORK, Backend: { Type: this.backend } }
    await this.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(config))
  }

  /** Runs a command on the underlay, between the hosts. */
  async onUnderlay(...command: readonly string[]): Promise<string> {
    return await runInside(underlayNamespace(this.lab.name), command)
  }

  /** Copies what the daemons have logged to a directory that stays, and says which. */
  async keepLogs(): Promise<string> {
    const place = await mkdtemp(join(tmpdir(), 'flanneld-faults-logs-'))
    for (const host of this.hosts)
      await cp(host.daemon.logFile, join(place, `${host.name}.log`))
    return place
  }

  async close(): Promise<void> {
    await this.#traffic?.close()
    await this.#proxy?.close()
    await this.etcd.killAll()
    await this.lab.close()
    await run('umount', ['--lazy', join(this.directory, 'hosts')])
    await rm(this.directory, { recursive: true })
  }
}

/** Things in the kernel that are somebody else's, as similar to ours as they may be. */
async function layForeign(host: LabHost): Promise<void> {
  await host.run(['sh', '-ec', FOREIGN])
}

const FOREIGN = `
ip route add 203.0.113.0/24 via 192.168.77.1 proto 99
ip rule add from 203.0.113.7 lookup 99 priority 1000
ip link add other0 type bridge
ip address add 198.51.100.1/24 dev other0
ip link set other0 up
iptables -A FORWARD -s 203.0.113.0/24 -j ACCEPT
iptables -t nat -A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE
nft add table inet other
nft add chain inet other forward '{ type filter hook forward priority 10; }'
nft add rule inet other forward ip saddr 203.0.113.9 drop`

/** Fills the file system that the daemons write to, until the function is called. */
export async function fillDisk(cluster: Cluster): Promise<() => Promise<void>> {
  const file = join(cluster.directory, 'hosts', 'filler')
  for (let bytes = 1 << 20; bytes >= 4096; bytes /= 2) {
    const chunk = Buffer.alloc(bytes)
    while (await append(file, chunk));
  }
  return async () => {
    await rm(file)
  }
}

async function append(file: string, chunk: Buffer): Promise<boolean> {
  return await writeFile(file, chunk, { flag: 'a' }).then(
    () => true,
    () => false,
  )
}
