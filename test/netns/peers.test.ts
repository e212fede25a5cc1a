/** What the daemon measures of the ways to its remotes, and how it tells what is wrong. */
import t from 'tap'
import type { DaemonStatus } from '../../cmd/flannelctl/daemon-status.js'
import { CommandError } from '../../lib/linux/run.js'
import { type Side, openPair, passes } from './open-pair.js'
import { parsePrometheus } from '../reference/prometheus-text.js'
import { waitFor } from '../helpers/wait-for.js'

const NETWORK = { Network: '10.5.0.0/16' }
const PROBING = ['--probe-rate=50', '--status-listen=127.0.0.1:9752']

const pair = await openPair(t, 'peers', NETWORK, { flags: PROBING })

const run = (side: Side, line: string): Promise<string> =>
  pair.inside(side, ...line.split(' '))

type Path = NonNullable<NonNullable<DaemonStatus['remotes']>[number]['path']>

async function peersText(): Promise<string> {
  return await pair.flannelctl(1, 'peers').catch((error: unknown) => {
    if (error instanceof CommandError) return error.stdout
    throw error
  })
}

async function path(): Promise<Path | undefined> {
  return (await pair.status(1)).remotes?.[0]?.path
}

/** Waits until what is told of the remote is so. */
async function tells(what: string, check: (path: Path) => boolean): Promise<Path> {
  let last: Path | undefined
  const isSo = async (): Promise<boolean> => {
    last = await path()
    return last !== undefined && check(last)
  }
  await waitFor(what, isSo, 150_000).catch((error: unknown) => {
    throw new Error(`${String(error)}: ${JSON.stringify(last)}`)
  })
  if (last === undefined) throw new Error('there is no remote')
  return last
}

/** Waits until the remote is told to be silent, and this to be why. */
async function tellsWhySilent(why: string): Promise<void> {
  const isSo = ({ state, trouble }: Path): boolean =>
    state === 'silent' && trouble?.includes(why) === true
  await tells(`it is silent: ${why}`, isSo)
}

t.test('a way that is well is measured', async t => {
  await passes(pair, 4)
  const { roundTripMs, overlayRoundTripMs } = await tells(
    'all is measured',
    ({ pathMtu, overlayRoundTripMs, state, trouble }) =>
      pathMtu === 1500 &&
      overlayRoundTripMs !== null &&
      state === 'up' &&
      trouble === null,
  )
  t.ok((roundTripMs ?? 0) > 0 && (overlayRoundTripMs ?? 0) > 0)
  const line =
    /^10\.5\.\d+\.0\/24 +192\.0\.2\.2 +up +\d+\.\d\d ms +0% +\d+\.\d\d ms +1500 +(23h5\dm|1d0h)$/m
  // Of the last twenty, some of which a busy machine may have been late with.
  await waitFor('peers shows it', async () => line.test(await peersText()))
  await waitFor('status has nothing to note', async () => {
    const status = await pair.flannelctl(1, 'status')
    return /^remotes +1: 1 up$/m.test(status) && !status.includes('note')
  })
})

t.test('Prometheus is told the same', async t => {
  const ask = 'busybox wget -qO- http://127.0.0.1:9752/metrics'
  const metrics = parsePrometheus(await run(1, ask))
  const valueOf = (name: string, labels = {}): number | undefined =>
    metrics
      .get(`flanneld_${name}`)
      ?.samples.find(sample => JSON.stringify(sample.labels) === JSON.stringify(labels))
      ?.value
  t.equal(valueOf('ready'), 1)
  t.equal(valueOf('etcd_reachable'), 1)
  t.equal(valueOf('remotes', { state: 'up' }), 1)
  for (const name of [
    'record_lists_total',
    'applies_total',
    'apply_seconds_total',
    'etcd_calls_total',
    'path_sent_packets_total',
    'path_received_packets_total',
    'path_resident_memory_bytes',
    'probes_sent_total',
  ])
    t.ok((valueOf(name) ?? 0) > 0, name)
})

t.test('SIGHUP has certificates read again, and nothing else happens', async t => {
  const { pid } = await pair.status(1)
  process.kill(pid, 'SIGHUP')
  await waitFor('it is told', async () =>
    (await pair.log(1)).includes('reading certificates and password for etcd again'),
  )
  await run(1, `etcdctl --endpoints=http://192.0.2.1:2379 get x`)
  const { phase, etcdReachable, pid: later } = await pair.status(1)
  t.strictSame(
    { phase, etcdReachable, later },
    { phase: 'ready', etcdReachable: true, later: pid },
  )
})

t.test('loss is counted', async t => {
  const drop =
    'table ip loss { chain in { type filter hook input priority 0; icmp type echo-request numgen inc mod 2 0 drop; }; }'
  await pair.inside(2, 'sh', '-c', `echo '${drop}' | nft -f -`)
  const { loss } = await tells('it is told', ({ loss }) => (loss ?? 0) > 0.2)
  t.pass(`${(loss ?? 0) * 100} %`)
  await run(2, 'nft delete table ip loss')
})

t.test('a daemon that is gone is told from a host that is', async t => {
  await pair.stop(2, 'SIGINT')
  await tellsWhySilent('nobody listens on UDP 8285 of 192.0.2.2: flanneld there')
  const text = await pair.flannelctl(1, 'status')
  t.match(text, 'peers: 1 of 1 remotes do not answer: flannelctl peers says which')
  t.match(text, /^remotes +1: 1 silent$/m)

  await run(2, 'ip link set eth0 down')
  const gone = await tells('it is unreachable', ({ state }) => state === 'unreachable')
  t.match(gone.trouble, /192\.0\.2\.2 (does not answer|cannot be reached)/)

  await run(2, 'ip link set eth0 up')
  await pair.restart(2, 'SIGKILL', [])
  await tells(
    'it is up again',
    ({ state, trouble }) => state === 'up' && trouble === null,
  )
})

t.test('a firewall that drops our packets is suspected', async () => {
  const drop =
    'table ip closed { chain in { type filter hook input priority 0; udp dport 8285 drop; }; }'
  await pair.inside(2, 'sh', '-c', `echo '${drop}' | nft -f -`)
  await tellsWhySilent('nothing through the overlay: a firewall drops UDP 8285')
  await run(2, 'nft delete table ip closed')
})

// Behind the others: a path that was found short counts until it is measured again.
t.test('a smaller path is found though nobody tells of it', async t => {
  // A veth drops what is longer than its other end takes, and says nothing.
  await run(2, 'ip link set eth0 mtu 1400')
  // A VLAN tag more than its MTU comes through.
  const { trouble } = await tells(
    'the length is known',
    ({ pathMtu }) => pathMtu !== null && pathMtu <= 1404 && pathMtu > 1400 - 8,
  )
  t.match(trouble, /takes packets of \d+ bytes, and ours are up to 1500/)
})

t.test('without probes the command says so', async t => {
  await pair.restart(1, 'SIGTERM', ['--probe-rate=0'])
  await waitFor('the peer is listed', async () =>
    /^10\.5\.\d+\.0\/24 +192\.0\.2\.2 +unknown +- +- +- +- +(23h5\dm|1d0h)$/m.test(
      await peersText(),
    ),
  )
  t.match(await peersText(), 'the ways to them are not measured: --probe-rate is 0')
})
