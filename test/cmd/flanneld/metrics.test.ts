import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { hostname } from 'node:os'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { readListenAddress } from '../../../cmd/flanneld/listen-address.js'
import { openWebServer } from '../../../cmd/flanneld/web-server.js'
import { Drop } from '../../../lib/encap/drops.js'
import { silent } from '../../helpers/log.js'
import { freePort } from '../../helpers/real-etcd.js'
import { parsePrometheus } from '../../reference/prometheus-text.js'
import { zeroTraffic } from '../../../lib/encap/path-control.js'

/** What a daemon with two remotes says of itself. */
const STATUS = {
  phase: 'ready',
  etcdReachable: true,
  troubles: {},
  notes: { peers: '1 of 2 remotes do not answer' },
  ignoredRecords: [{ key: 'x', why: 'y' }],
  counters: {
    leaseRenewals: 3,
    recordLists: 2,
    applies: 5,
    applySeconds: 0.25,
    etcdCalls: 12,
    etcdFailures: 1,
    etcdSeconds: 0.5,
  },
  lease: {
    subnet: '10.5.1.0/24',
    expiresInSeconds: 80_000,
    forwardingForSeconds: 79_000,
  },
  backend: {
    type: 'udp',
    mtu: 1472,
    repairs: 4,
    path: {
      pid: process.pid,
      traffic: { ...zeroTraffic(), sentPackets: 7, receivedBytes: 900 },
      drops: { unknownSender: 2 },
    },
  },
  probes: { sent: 40 },
  remotes: [
    {
      subnet: '10.5.2.0/24',
      path: { state: 'up', roundTripMs: 0.5, loss: 0.05, pathMtu: 1500 },
    },
    {
      subnet: '10.5.3.0/24',
      path: { state: 'silent', roundTripMs: null, loss: null, pathMtu: null },
    },
  ],
}

/** Of the ways to remotes. */
const STATES = ['up', 'silent', 'unreachable', 'unknown']

let status: Record<string, unknown> = STATUS
const port = await freePort()
const server = await openWebServer({
  address: { host: '127.0.0.1', port },
  report: () => Promise.resolve(status),
  journalFile: '',
  log: silent,
})
t.teardown(() => server.close())

async function ask(
  path = '/metrics',
  options: { method?: string; host?: string } = {},
): Promise<[number, string]> {
  const { method = 'GET', host = `127.0.0.1:${port}` } = options
  const call = request({ host: '127.0.0.1', port, path, method, headers: { host } })
  call.end()
  const [response] = (await once(call, 'response')) as [IncomingMessage]
  return [response.statusCode ?? 0, await text(response)]
}

async function figures(): Promise<ReadonlyMap<string, unknown>> {
  const [code, body] = await ask()
  if (code !== 200) throw new Error(`${code} ${body}`)
  return new Map(
    Array.from(parsePrometheus(body), ([name, { type, samples }]) => [
      name,
      [type, ...samples.map(({ labels, value }) => [labels, value])],
    ]),
  )
}

t.test('what the daemon knows is told with units and types', async t => {
  const found = await figures()
  for (const [name, wanted] of Object.entries({
    ready: ['gauge', [{}, 1]],
    etcd_reachable: ['gauge', [{}, 1]],
    troubles: ['gauge', [{}, 0]],
    notes: ['gauge', [{}, 1]],
    ignored_records: ['gauge', [{}, 1]],
    lease_expires_seconds: ['gauge', [{}, 80_000]],
    permit_seconds: ['gauge', [{}, 79_000]],
    lease_renewals_total: ['counter', [{}, 3]],
    record_lists_total: ['counter', [{}, 2]],
    applies_total: ['counter', [{}, 5]],
    apply_seconds_total: ['counter', [{}, 0.25]],
    etcd_calls_total: ['counter', [{}, 12]],
    etcd_failures_total: ['counter', [{}, 1]],
    etcd_call_seconds_total: ['counter', [{}, 0.5]],
    repairs_total: ['counter', [{}, 4]],
    probes_sent_total: ['counter', [{}, 40]],
    overlay_mtu_bytes: ['gauge', [{}, 1472]],
    path_sent_packets_total: ['counter', [{}, 7]],
    path_received_bytes_total: ['counter', [{}, 900]],
    drops_total: ['counter', [{ reason: 'unknownSender' }, 2]],
    remotes: [
      'gauge',
      [{ state: 'up' }, 1],
      [{ state: 'silent' }, 1],
      [{ state: 'unreachable' }, 0],
      [{ state: 'unknown' }, 0],
    ],
    remote_rtt_seconds: ['gauge', [{ subnet: '10.5.2.0/24' }, 0.0005]],
    remote_loss_ratio: ['gauge', [{ subnet: '10.5.2.0/24' }, 0.05]],
    remote_path_mtu_bytes: ['gauge', [{ subnet: '10.5.2.0/24' }, 1500]],
  }))
    t.strictSame(found.get(`flanneld_${name}`), wanted, name)
  t.match(found.get('flanneld_info'), ['gauge', [{ backend: 'udp' }, 1]])
  t.match(found.get('flanneld_path_resident_memory_bytes'), ['gauge', [{}, Number]])
  t.ok(
    found.has('process_cpu_seconds_total') && found.has('nodejs_eventloop_lag_seconds'),
  )
})

t.test('counters go on from where they were', async t => {
  await figures()
  t.strictSame((await figures()).get('flanneld_applies_total'), ['counter', [{}, 5]])
})

t.test('a daemon that has not got far tells what it has', async t => {
  const { phase, etcdReachable, ignoredRecords } = STATUS
  status = {
    phase: 'waiting',
    etcdReachable,
    troubles: {},
    notes: {},
    ignoredRecords,
  }
  const found = await figures()
  t.strictSame(found.get('flanneld_ready'), ['gauge', [{}, 0]])
  t.notOk(found.has('flanneld_remotes'))
  status = { phase }
  t.equal((await ask())[0], 500, 'and of one that makes no sense nothing')
  status = STATUS
})

t.test(
  'nobody reads it by a name that is not this host’s, and nothing else is there',
  async t => {
    for (const host of [
      'localhost',
      `[::1]:${port}`,
      '192.0.2.1',
      `${hostname()}:${port}`,
    ])
      t.equal((await ask('/metrics', { host }))[0], 200, host)
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '127.0.0.1.evil.example',
    ])
      t.equal((await ask('/metrics', { host }))[0], 421, host)
    for (const path of ['/status', '/metrics/', '//metrics', '/..'])
      t.equal((await ask(path))[0], 404, path)
    t.equal((await ask('/metrics', { method: 'POST' }))[0], 405)
  },
)

t.test('an address to listen on is read strictly', t => {
  t.strictSame(readListenAddress('x', '127.0.0.1:9752'), {
    host: '127.0.0.1',
    port: 9752,
  })
  t.strictSame(readListenAddress('x', '[::1]:1'), { host: '::1', port: 1 })
  t.strictSame(readListenAddress('x', ':9752'), { host: '::', port: 9752 })
  for (const text of [
    '9752',
    'host:9752',
    '127.0.0.1',
    '127.0.0.1:0',
    '127.0.0.1:65536',
    '::1:80',
  ])
    t.throws(
      () => readListenAddress('x', text),
      /it takes an IP address and a port/,
      text,
    )
  t.end()
})

t.test('alerts and the dashboard ask for metrics and labels that there are', async t => {
  const found = await figures()
  for (const file of ['alerts.yml', 'dashboard.json']) {
    const url = new URL(`../../../../packaging/prometheus/${file}`, import.meta.url)
    const text = readFileSync(url, 'utf8')
    const names = new Set(text.match(/\b(flanneld|process)_[a-z_]+/g))
    t.ok(names.size > 5)
    for (const name of names) t.ok(found.has(name), `${file}: ${name}`)
    for (const [, label = '', words = ''] of text.matchAll(
      /(reason|state)=~\\?"([\w|]*)/g,
    ))
      for (const word of words.split('|'))
        t.ok(label === 'state' ? STATES.includes(word) : Object.hasOwn(Drop, word), word)
    if (file.endsWith('.json')) {
      const { panels } = JSON.parse(text) as { panels: { id: number }[] }
      t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
    }
  }
})
