import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ipInside, runInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { until } from '../../cmd/flannelctl/lab/until.js'
import { run } from '../../lib/linux/run.js'
import { parseVariables } from '../../lib/subnet/subnet-env.js'
import { type Side, SIDES, hostOf, other, underlayOf } from './topology.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const ETCD = `http://${underlayOf(1)}:2379`
const READY_MS = 20_000

/** A way from one container to the other. All are there at the same time; the route decides. */
export interface Contestant {
  readonly name: string
  readonly encrypts: boolean
  readonly mtu: number
  /** The rest of `ip route replace SUBNET …` on a host. */
  readonly route: (side: Side) => string
  /** Command names of its processes, for their memory. */
  readonly processes: readonly string[]
}

/** What is measured with, made in a directory of its own. */
export class Arena {
  readonly #directory: string
  readonly #processes: LabProcess[] = []
  #subnets: readonly string[] = []

  constructor(directory: string) {
    this.#directory = directory
  }

  /** 10.77.5 for 10.77.5.0/24. */
  subnetOf(side: Side): string {
    return this.#subnets[side - 1] ?? ''
  }

  #start(side: Side, name: string, command: readonly string[]): void {
    const log = join(this.#directory, `${name}-${side}.log`)
    const options = { namespace: hostOf(side), command, log, outlive: false }
    this.#processes.push(new LabProcess(options))
  }

  async close(): Promise<void> {
    for (const process of this.#processes.reverse()) await process.end('SIGINT')
  }

  /** Our daemons come first: they say which subnets there are. */
  async openOurs(queues: string): Promise<Contestant> {
    this.#start(1, 'etcd', [
      'etcd',
      `--data-dir=${this.#directory}/etcd`,
      `--listen-client-urls=${ETCD}`,
      `--advertise-client-urls=${ETCD}`,
      '--listen-peer-urls=http://127.0.0.1:2380',
    ])
    const config = '{"Network":"10.77.0.0/16","Backend":{"Type":"udp"}}'
    const put = [
      'etcdctl',
      `--endpoints=${ETCD}`,
      'put',
      '/coreos.com/network/config',
      config,
    ]
    await eventually('etcd answers', async () => {
      await runInside(hostOf(1), put, { environment: { ETCDCTL_API: '3' } })
    })
    const environments = await Promise.all(
      SIDES.map(async side => {
        const place = join(this.#directory, `flanneld-${side}`)
        await mkdir(place, { recursive: true })
        this.#start(side, 'flanneld', [
          process.execPath,
          join(ROOT, 'dist/cmd/flanneld.js'),
          '--iface=eth0',
          `--etcd-endpoints=${ETCD}`,
          `--subnet-file=${place}/subnet.env`,
          `--state-dir=${place}/state`,
          `--run-dir=${place}/run`,
          '--iptables-forward-rules=false',
          `--udp-queues=${queues}`,
        ])
        return await eventually('flanneld is ready', async () =>
          parseVariables(await readFile(`${place}/subnet.env`, 'utf8')),
        )
      }),
    )
    this.#subnets = environments.map(environment =>
      (environment.get('FLANNEL_SUBNET') ?? '').replace(/\.1\/24$/, ''),
    )
    const mtu = Number(environments[0]?.get('FLANNEL_MTU'))
    const name = 'flanneld udp'
    const route = (): string => 'dev flannel0'
    return { name, encrypts: false, mtu, route, processes: ['flanneld-path'] }
  }

  /** The classic design in C; undefined without a compiler. */
  async openRelay(): Promise<Contestant | undefined> {
    const program = join(this.#directory, 'relay')
    try {
      await run('gcc', ['-O2', '-o', program, join(ROOT, 'bench/relay.c')])
    } catch {
      return undefined
    }
    for (const side of SIDES) {
      const far = other(side)
      const route = `${this.subnetOf(far)}.0/24=${underlayOf(far)}`
      this.#start(side, 'relay', [program, 'relay0', underlayOf(side), '8290', route])
      await this.#upWhenThere(side, 'relay0', 1472)
    }
    return {
      name: 'relay in C',
      encrypts: false,
      mtu: 1472,
      route: () => 'dev relay0',
      processes: ['relay'],
    }
  }

  /** As flannel sets it up. */
  async openVxlan(): Promise<Contestant> {
    const mac = (side: Side): string => `02:00:00:00:00:0${side}`
    for (const side of SIDES) {
      const far = other(side)
      const gateway = `${this.subnetOf(far)}.0`
      await ipInside(hostOf(side), [
        `link add flannel.1 address ${mac(side)} type vxlan id 1 dev eth0 local ${underlayOf(side)} dstport 8472 nolearning`,
        `address add ${this.subnetOf(side)}.0/32 dev flannel.1`,
        'link set flannel.1 mtu 1450 up',
        `neighbour replace ${gateway} lladdr ${mac(far)} dev flannel.1 nud permanent`,
      ])
      const entry = [
        'fdb',
        'replace',
        mac(far),
        'dev',
        'flannel.1',
        'dst',
        underlayOf(far),
      ]
      await runInside(hostOf(side), ['bridge', ...entry])
    }
    return {
      name: 'kernel vxlan',
      encrypts: false,
      mtu: 1450,
      route: side => `via ${this.subnetOf(other(side))}.0 dev flannel.1 onlink`,
      processes: [],
    }
  }

  openPlain(): Contestant {
    return {
      name: 'plain routing',
      encrypts: false,
      mtu: 1500,
      route: side => `via ${underlayOf(other(side))}`,
      processes: [],
    }
  }

  /** Debian's; undefined where it is not installed. */
  async openWireguardGo(): Promise<Contestant | undefined> {
    try {
      const keys = await Promise.all(
        SIDES.map(async () => (await run('wg', ['genkey'])).trim()),
      )
      const publics = await Promise.all(
        keys.map(async key => (await run('wg', ['pubkey'], { input: key })).trim()),
      )
      for (const side of SIDES) {
        const far = other(side)
        this.#start(side, 'wireguard', ['wireguard-go', '--foreground', `wg${side}`])
        await this.#upWhenThere(side, `wg${side}`, 1420)
        const file = join(this.#directory, `wg${side}.conf`)
        const config = [
          '[Interface]',
          `PrivateKey = ${keys[side - 1] ?? ''}`,
          'ListenPort = 51820',
          '[Peer]',
          `PublicKey = ${publics[far - 1] ?? ''}`,
          `AllowedIPs = ${this.subnetOf(far)}.0/24`,
          `Endpoint = ${underlayOf(far)}:51820`,
        ]
        await writeFile(file, `${config.join('\n')}\n`, { mode: 0o600 })
        await runInside(hostOf(side), ['wg', 'setconf', `wg${side}`, file])
      }
    } catch {
      return undefined
    }
    const route = (side: Side): string => `dev wg${side}`
    const processes = ['wireguard-go']
    return { name: 'wireguard-go', encrypts: true, mtu: 1420, route, processes }
  }

  /** Debian's; undefined where it is not installed. */
  async openNebula(): Promise<Contestant | undefined> {
    const at = (file: string): string => join(this.#directory, file)
    const ca = ['-ca-crt', at('ca.crt'), '-ca-key', at('ca.key')]
    try {
      await run('nebula-cert', [
        ...['ca', '-name', 'bench'],
        ...['-out-crt', at('ca.crt'), '-out-key', at('ca.key')],
      ])
      for (const side of SIDES) {
        await run('nebula-cert', [
          ...['sign', ...ca, '-name', `h${side}`, '-ip', `10.66.0.${side}/24`],
          ...['-subnets', `${this.subnetOf(side)}.0/24`],
          ...['-out-crt', at(`h${side}.crt`), '-out-key', at(`h${side}.key`)],
        ])
        const far = other(side)
        const config = {
          pki: { ca: at('ca.crt'), cert: at(`h${side}.crt`), key: at(`h${side}.key`) },
          static_host_map: { [`10.66.0.${far}`]: [`${underlayOf(far)}:4242`] },
          lighthouse: { am_lighthouse: false },
          listen: { host: underlayOf(side), port: 4242 },
          tun: {
            dev: 'nebula1',
            mtu: 1400,
            unsafe_routes: [
              {
                route: `${this.subnetOf(far)}.0/24`,
                via: `10.66.0.${far}`,
                mtu: 1400,
                metric: 9999,
              },
            ],
          },
          firewall: {
            outbound: [{ port: 'any', proto: 'any', host: 'any' }],
            inbound: [{ port: 'any', proto: 'any', host: 'any' }],
          },
        }
        // YAML is a superset of JSON.
        await writeFile(at(`nebula${side}.yml`), JSON.stringify(config), { mode: 0o600 })
        this.#start(side, 'nebula', ['nebula', '-config', at(`nebula${side}.yml`)])
        await this.#upWhenThere(side, 'nebula1', 1400)
      }
    } catch {
      return undefined
    }
    const route = (): string => 'dev nebula1'
    return { name: 'nebula', encrypts: true, mtu: 1400, route, processes: ['nebula'] }
  }

  async #upWhenThere(side: Side, device: string, mtu: number): Promise<void> {
    await eventually(`${device} appears`, async () => {
      await ipInside(hostOf(side), [`link set ${device} mtu ${mtu} up`])
    })
  }

  /** Sends what goes from container to container through a contestant. */
  async select({ route }: Contestant): Promise<void> {
    for (const side of SIDES) {
      const subnet = `${this.subnetOf(other(side))}.0/24`
      await ipInside(hostOf(side), [`route replace ${subnet} ${route(side)}`])
    }
  }
}

/** Waits until something can be done. */
async function eventually<T>(what: string, act: () => Promise<T>): Promise<T> {
  const attempt = async (): Promise<{ done: T } | undefined> => {
    try {
      return { done: await act() }
    } catch {
      return undefined
    }
  }
  return (await until(what, READY_MS, attempt)).done
}
