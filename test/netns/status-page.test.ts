/** The status page as a browser shows it: three hosts, of which one goes away. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openLab } from '../../cmd/flannelctl/lab/lab.js'
import { startTraffic, stopTraffic, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const PAGE = 'http://127.0.0.1:9752/'

const lab = await openLab({
  name: 't-page',
  hosts: 3,
  flags: ['--probe-rate=50', '--status-listen=127.0.0.1:9752'],
})
const profile = await mkdtemp(join(tmpdir(), 'flannel-page-'))
t.teardown(async () => {
  await lab.close()
  await rm(profile, { recursive: true })
})
const [one, two, three] = [lab.host(1), lab.host(2), lab.host(3)]

/** What a browser makes of the page, and what it complains of. */
async function browse(...flags: readonly string[]): Promise<string> {
  const command = [
    'chromium-headless-shell',
    '--no-sandbox',
    '--disable-gpu',
    `--user-data-dir=${profile}`,
    ...flags,
    PAGE,
  ]
  const dom = await one.run(command, { timeoutMs: 60_000 })
  return dom.replaceAll(/\s+/g, ' ').replaceAll(/ ?(<[^>]*>) ?/g, '$1')
}

function count(dom: string, what: RegExp): number {
  return Array.from(dom.matchAll(what)).length
}

await t.test('a network that is well', async t => {
  const traffic = await startTraffic(one, two)
  let dom = ''
  await waitFor(
    'all answer, and packets are told of',
    async () => {
      dom = await browse('--dump-dom').catch(() => '')
      return count(dom, /<rect class="up"/g) === 2 && /id="sent">[\d.]+ kbit/.test(dom)
    },
    120_000,
  )
  await stopTraffic(traffic)
  const subnet = await subnetOf(one.daemon)
  t.match(dom, /id="state">ready</)
  t.equal(count(dom, /<rect /g), 256, 'a square for each subnet of the network')
  t.equal(count(dom, /<rect class="own"/g), 1)
  t.match(dom, `<title>${subnet}: this host</title>`)
  t.match(dom, /<h2>3 subnets of 10\.5\.0\.0\/16 are taken<\/h2>/)
  t.match(dom, /<td>192\.168\.77\.12<\/td><td><span class="key up"><\/span>answers/)
  t.match(dom, /<td>holding<\/td>/, 'what has become of the lease')
  t.match(dom, /<td>10\.5\.0\.0\/16<\/td><td><\/td><td>flannel0<\/td>/, 'the routes')
  t.notMatch(dom, /https?:|src=|href=|<script/, 'nothing comes from elsewhere')
  t.match(dom, /<polyline class="sent" points="[\d.]+,/)
})

await t.test('a host that goes away', async t => {
  const subnet = await subnetOf(three.daemon)
  await three.run(['ip', 'link', 'set', 'eth0', 'down'])
  let dom = ''
  await waitFor(
    'the page tells',
    async () => {
      dom = await browse('--dump-dom').catch(() => '')
      return dom.includes(`<title>${subnet}: 192.168.77.13, unreachable</title>`)
    },
    120_000,
  )
  const [first] = /<tbody><tr>.*?<\/tr>/.exec(dom.slice(dom.indexOf('Other hosts'))) ?? []
  t.match(first, '192.168.77.13', 'what needs somebody comes first')
  t.match(dom, /<p class="note">peers: 1 of 2 remotes do not answer/)
})

await t.test('nothing that the browser refuses', async t => {
  const complaints = await one.run(
    [
      'sh',
      '-c',
      '"$@" 2>&1 >/dev/null',
      'sh',
      'chromium-headless-shell',
      '--no-sandbox',
      '--disable-gpu',
      `--user-data-dir=${profile}`,
      '--enable-logging=stderr',
      '--dump-dom',
      PAGE,
    ],
    { timeoutMs: 60_000 },
  )
  t.notMatch(complaints, /CONSOLE|Content.Security.Policy/i)
})
