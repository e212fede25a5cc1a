import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEtcdClient } from '../../lib/subnet/etcd-client.js'
import { ip } from './own-network.js'
import { waitFor } from './wait-for.js'

const NAMES = ['a', 'b', 'c'] as const

/**
 * Three members of one etcd, each in a network namespace of its own behind us.
 * Needs a network of its own (inOwnNetwork).
 *
 *   member a  10.77.0.2/30 ── va 10.77.0.1   ┐
 *   member b  10.77.0.6/30 ── vb 10.77.0.5   ├ we, who forward between them
 *   member c  10.77.0.10/30 ─ vc 10.77.0.9   ┘
 */
export class EtcdTrio {
  readonly #directory = mkdtempSync(join(tmpdir(), 'flanneld-trio-'))
  readonly #children: (ChildProcess | undefined)[] = []

  static async open(): Promise<EtcdTrio> {
    const trio = new EtcdTrio()
    execFileSync('sysctl', ['-qw', 'net.ipv4.ip_forward=1'])
    try {
      for (const index of NAMES.keys()) await trio.start(index)
      await trio.isHealthy()
    } catch (error) {
      await trio.close()
      throw error
    }
    return trio
  }

  get endpoints(): string[] {
    return [...NAMES.keys()].map(index => `http://${addressOf(index)}:2379`)
  }

  /** Starts a member with the data that it had. */
  async start(index: number): Promise<void> {
    // The shell waits until its network is there; etcd then runs under the same pid.
    const shell = ['sh', '-c', 'echo; read _; exec "$0" "$@"', 'etcd']
    const child = spawn(
      'setpriv',
      [
        '--pdeathsig',
        'KILL',
        '--',
        'unshare',
        '--net',
        '--',
        ...shell,
        ...this.#flags(index),
      ],
      { stdio: ['pipe', 'pipe', 'ignore'], env: { PATH: process.env['PATH'] } },
    )
    this.#children[index] = child
    await once(child.stdout, 'data')
    const [inside, outside] = [addressOf(index), addressOf(index, 1)]
    const device = `v${NAMES[index]}`
    ip(`link add ${device} type veth peer name eth0 netns ${child.pid}`)
    ip(`address add ${outside}/30 dev ${device}`)
    ip(`link set ${device} up`)
    for (const line of [
      'link set lo up',
      `address add ${inside}/30 dev eth0`,
      'link set eth0 up',
      `route add default via ${outside}`,
    ]) {
      const command = ['-t', String(child.pid), '-n', 'ip', ...line.split(' ')]
      execFileSync('nsenter', command)
    }
    child.stdin.end('\n')
    child.stdout.resume()
  }

  #flags(index: number): string[] {
    const peer = (member: number): string => `http://${addressOf(member)}:2380`
    const client = `http://${addressOf(index)}:2379`
    return [
      `--name=${NAMES[index]}`,
      `--data-dir=${join(this.#directory, String(index))}`,
      `--listen-client-urls=${client}`,
      `--advertise-client-urls=${client}`,
      `--listen-peer-urls=${peer(index)}`,
      `--initial-advertise-peer-urls=${peer(index)}`,
      `--initial-cluster=${NAMES.map((name, member) => `${name}=${peer(member)}`).join(',')}`,
    ]
  }

  /** Waits until every member knows a leader. */
  async isHealthy(): Promise<void> {
    for (const endpoint of this.endpoints) {
      await waitFor(`${endpoint} to be healthy`, () => isHealthy(endpoint), 60_000)
    }
  }

  /** The number of the member that leads. */
  async leader(): Promise<number> {
    return await waitFor('a leader', async () => {
      for (const [index, endpoint] of this.endpoints.entries()) {
        const client = openEtcdClient(endpoint)
        const status = await client.maintenance.status().finally(() => {
          client.close()
        })
        if (status.leader === status.header.member_id) return index
      }
      return undefined
    })
  }

  /** Cuts a member off from the others; we still reach it. */
  cutOff(index: number): void {
    this.#forward('-I', index)
  }

  rejoin(index: number): void {
    this.#forward('-D', index)
  }

  #forward(act: '-I' | '-D', index: number): void {
    for (const way of ['-i', '-o']) {
      const rule = ['FORWARD', way, `v${NAMES[index]}`, '-j', 'DROP']
      execFileSync('iptables', ['-w', act, ...rule])
    }
  }

  async kill(index: number): Promise<void> {
    const child = this.#children[index]
    this.#children[index] = undefined
    if (child?.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
    // Its end of the wire goes with the namespace, at some time after the last process in it.
    await waitFor('the wire to go', () => removeLink(`v${NAMES[index]}`))
  }

  async close(): Promise<void> {
    for (const index of NAMES.keys()) await this.kill(index)
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

/** True when there is none to remove. */
function removeLink(name: string): true | undefined {
  try {
    execFileSync('ip', ['link', 'delete', name], { stdio: 'ignore' })
    return undefined
  } catch {
    return true
  }
}

async function isHealthy(endpoint: string): Promise<boolean> {
  try {
    const answer = (await (await fetch(`${endpoint}/health`)).json()) as {
      health: string
    }
    return answer.health === 'true'
  } catch {
    return false
  }
}

/** The address of a member, or with `before` 1 ours on the wire to it. */
function addressOf(index: number, before = 0): string {
  return `10.77.0.${index * 4 + 2 - before}`
}
