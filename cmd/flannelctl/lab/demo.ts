import { setTimeout as delay } from 'node:timers/promises'
import { formatTable } from '../table.js'
import type { LabHost } from './host.js'
import type { Lab } from './lab.js'
import { type PingResult, startPing } from './ping.js'
import { type Paint, formatBits, indent, pingMatrix } from './report.js'
import { measureTcp } from './throughput.js'
import { DEFAULT_PREFIX, UNDERLAY } from './topology.js'
import { until } from './until.js'

const TRANSFER_SECONDS = 2

/** Long enough to see that packets go on: some fifty pings. */
const WITHOUT_DAEMON_MS = 1000

/** A change in etcd reaches every daemon in milliseconds. */
const SETTLE_DEADLINE_MS = 60_000

export interface Stage {
  readonly paint: Paint
  /** Prints a line or several. */
  readonly say: (text: string) => void
  readonly signal: AbortSignal
}

/** The story that `lab run` tells. Rejects when anything is not as it should be. */
export async function playDemo(lab: Lab, stage: Stage): Promise<void> {
  const acts = [build, showLeases, pingAll, transfer, restartDaemon, loseHost]
  for (const act of acts) {
    stage.signal.throwIfAborted()
    await act(lab, stage)
  }
}

function title(stage: Stage, text: string, explanation: string): void {
  stage.say(`\n${stage.paint.bold(`▸ ${text}`)}`)
  stage.say(stage.paint.dim(indent(explanation, 2)))
}

async function build(lab: Lab, stage: Stage): Promise<void> {
  title(
    stage,
    `${lab.hosts.length} hosts on this machine`,
    `Each is a network namespace with its own flanneld and one container, plugged into a\nswitch of its own (${UNDERLAY}). Your own network is not touched.`,
  )
  const start = performance.now()
  await lab.startEtcd()
  stage.say(indent(`etcd runs and knows one thing: {"Network": "${lab.network}"}`))
  await lab.startHosts()
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  stage.say(indent(`${lab.hosts.length} daemons are ready after ${seconds} s`))
}

async function showLeases(lab: Lab, stage: Stage): Promise<void> {
  title(
    stage,
    'Leases and routes',
    `Every host leased a subnet of ${lab.network} from etcd, and its container got an address there.\nThe whole network is one route into flannel0; flanneld knows which host has which subnet.`,
  )
  const rows = await Promise.all(
    lab.hosts.map(async host => [
      host.name,
      host.address,
      await subnetOf(host),
      host.container.address,
    ]),
  )
  stage.say(indent(formatTable(['host', 'address', 'subnet', 'container'], rows)))
  stage.say(`\n    ip route on host1:`)
  stage.say(indent(await lab.host(1).run(['ip', 'route', 'show']), 6))
}

async function pingAll(lab: Lab, stage: Stage): Promise<void> {
  title(
    stage,
    'Every container pings every other',
    'Through its host, a UDP datagram to the other host, and back.',
  )
  const addresses = lab.hosts.map(host => host.container.address)
  const results: PingResult[][] = []
  for (const host of lab.hosts)
    results.push(await host.container.ping(addresses, { count: 5, intervalMs: 20 }))
  stage.say(
    indent(
      pingMatrix(
        lab.hosts.map(host => host.container.name),
        results,
      ),
    ),
  )
  expect(
    results.flat().every(({ received }) => received > 0),
    'a container does not reach another',
  )
}

async function transfer(lab: Lab, stage: Stage): Promise<void> {
  const [from, to] = [lab.host(1).container, lab.host(2).container]
  title(
    stage,
    'A TCP transfer',
    `One stream for ${TRANSFER_SECONDS} s, all hosts sharing this machine's processors.`,
  )
  const { tool, bitsPerSecond } = await measureTcp(from, to, TRANSFER_SECONDS)
  stage.say(indent(`${from.name} → ${to.name}: ${formatBits(bitsPerSecond)} (${tool})`))
}

async function restartDaemon(lab: Lab, stage: Stage): Promise<void> {
  const [one, two] = [lab.host(1), lab.host(2)]
  title(
    stage,
    'kill -9 flanneld on host2',
    'Packets are carried by a process of their own, which goes on. The next daemon finds it,\ntakes it over, and asks for the subnet that it had.',
  )
  const before = await subnetOf(two)
  const running = startPing(one.container.namespace, [two.container.address], {
    count: 10_000,
    intervalMs: 20,
  })
  await two.daemon.kill('SIGKILL')
  stage.say(indent('killed; a moment without it, then it is started again'))
  await delay(WITHOUT_DAEMON_MS, undefined, { signal: stage.signal })
  await two.daemon.start(stage.signal)
  const after = await subnetOf(two)
  const [result] = await running.stop()
  expect(after === before, `host2 had ${before} and has ${after} now`)
  stage.say(indent(`same subnet as before: ${after}`))
  stage.say(
    indent(
      `${one.container.name} pinged ${two.container.name} all the while: ${result?.sent ?? 0} sent, ${result?.received ?? 0} answered`,
    ),
  )
  expect(result?.sent === result?.received, 'packets were lost while the daemon was away')
}

async function loseHost(lab: Lab, stage: Stage): Promise<void> {
  const last = lab.hosts.at(-1)
  if (last === undefined || last === lab.host(2)) return
  const from = lab.host(1).container
  const { address } = last.container
  const subnet = await subnetOf(last)
  const key = `${DEFAULT_PREFIX}/subnets/${subnet.replace('/', '-')}`
  title(
    stage,
    `${last.name} loses power`,
    'Nobody can tell a dead host from a slow one, so its lease stays until it ends, a day after\nit was last renewed: whatever the host was, it finds its subnet when it comes back.',
  )
  await last.powerOff()
  const [silence] = await from.ping([address], { count: 3, timeoutMs: 500 })
  stage.say(
    indent(
      `${from.name} → ${last.container.name}: ${describe(silence)}; the lease is still there`,
    ),
  )
  expect(silence?.received === 0, `${last.name} answers without power`)
  expect((await lab.etcd.ctl('get', key)).includes(key), 'the lease is gone')

  stage.say(`\n    An operator who knows that it is gone for good deletes the lease:`)
  stage.say(indent(`etcdctl del ${key}`, 6))
  await lab.etcd.ctl('del', key)
  const refusal = await until(
    `${from.name} hears that ${subnet} is unreachable`,
    SETTLE_DEADLINE_MS,
    async () => {
      const [result] = await from.ping([address], { timeoutMs: 200 })
      return result?.errors.length === 0 ? undefined : result
    },
    stage.signal,
  )
  stage.say(
    indent(`${from.name} → ${last.container.name}: ${describe(refusal)}, told at once`),
  )
}

function describe(result: PingResult | undefined): string {
  return result?.errors[0] ?? `${result?.received ?? 0} of ${result?.sent ?? 0} answered`
}

/** 10.5.72.0/24, as the daemon says. */
async function subnetOf(host: LabHost): Promise<string> {
  const { lease } = await host.daemon.status()
  if (lease === undefined) throw new Error(`${host.name} holds no lease`)
  return lease.subnet
}

function expect(condition: boolean, failure: string): void {
  if (!condition) throw new Error(failure)
}
