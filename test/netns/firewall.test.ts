/**
 * Rules of the firewall, in iptables and in nftables: what they do to packets, and
 * that they are put back when others spoil them and leave alone what is others'.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { LabNode } from '../../cmd/flannelctl/lab/host.js'
import { LabProcess } from '../../cmd/flannelctl/lab/process.js'
import { underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { DUAL, openPair } from './open-pair.js'
import { openTestLab, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const PORT = '7777'

/** A group of hosts. */
const GROUP = '224.0.0.99'

const lab = await openTestLab(t, {
  name: 't-firewall',
  hosts: 2,
  flags: ['--ip-masq', '--iptables-resync=1', '--ip-blackhole-route'],
})
const [one, two] = [lab.host(1), lab.host(2)]
const outside = new LabNode(underlayNamespace(lab.name))
const OUTSIDE = '192.168.77.1'
const network = lab.network
const subnet = await subnetOf(one.daemon)
const overlayAddress = subnet.replace(/\/.*/, '')

await outside.run([...['ip', 'route', 'add', subnet, 'via', one.address]])

/** Answers each connection with the address that it came from. */
const SERVER = `require('node:net').createServer(s => s.end(s.remoteAddress.replace('::ffff:', ''))).listen(${PORT}, '::', () => console.log('ready'))`
const CLIENT = `
const [host, from] = process.argv.slice(1)
const s = require('node:net').connect({ host, port: ${PORT}, ...(from && { localAddress: from }), timeout: 20000 })
s.pipe(process.stdout)
s.on('error', e => { console.log(e.code); process.exit(0) })
s.on('timeout', () => { console.log('nothing'); process.exit(0) })`

const log = join(t.testdir(), 'servers.log')
const servers = [outside, two.container, one.container, two]
for (const { namespace } of servers) {
  const command = [process.execPath, '-e', SERVER]
  const server = new LabProcess({ namespace, command, log, outlive: false })
  t.teardown(() => server.end('SIGKILL'))
}
await waitFor('they listen', async () => {
  const ready = (await readFile(log, 'utf8')).match(/ready/g) ?? []
  return ready.length === servers.length
})

/** Sends to the group from one address, by the interface of another. */
const TO_GROUP = `
const [from, by] = process.argv.slice(1)
const socket = require('node:dgram').createSocket('udp4')
socket.bind(0, from, () => {
  socket.setMulticastInterface(by)
  setInterval(() => socket.send('x', ${PORT}, '${GROUP}'), 100)
})`

/** Whom `to` sees when `from` connects to it. */
async function seen(from: LabNode, to: string, source = ''): Promise<string> {
  const text = await from.run([process.execPath, '-e', CLIENT, to, source])
  return text.trim()
}

async function expectMeaning(t: Test): Promise<void> {
  const [container, remote] = [one.container.address, two.container.address]
  await waitFor(
    'packets pass',
    async () => (await seen(one.container, remote)) === container,
  )
  t.equal(
    await seen(one.container, remote),
    container,
    'container to container: as it is',
  )
  t.equal(await seen(one.container, OUTSIDE), one.address, 'container to outside: masked')
  t.equal(await seen(one, remote), overlayAddress, 'host to remote container')
  t.equal(
    await seen(one, remote, one.address),
    overlayAddress,
    'host to remote container by its public address: masked',
  )
  t.equal(await seen(outside, container), OUTSIDE, 'outside to container: as it is')
  const iptables = (line: string): Promise<string> =>
    one.run(['iptables', ...line.split(' ')])
  const mark = `PREROUTING -s ${container} -j MARK --set-mark 0x4000/0x4000`
  await iptables(`-t mangle -A ${mark}`)
  t.equal(await seen(one.container, OUTSIDE), container, "kube-proxy's mark: as it is")
  for (const line of [
    '-N KUBE-POSTROUTING',
    '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
    '-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000',
    '-A KUBE-POSTROUTING -j MASQUERADE',
    '-I POSTROUTING 1 -j KUBE-POSTROUTING',
  ])
    await iptables(`-t nat ${line}`)
  t.equal(
    await seen(one.container, two.container.address),
    overlayAddress,
    'with its rules: masked by them, to whomever',
  )
  await iptables(`-t mangle -D ${mark}`)
  t.equal(await seen(one.container, two.container.address), container, 'without the mark')
  for (const line of ['-D POSTROUTING 1', '-F KUBE-POSTROUTING', '-X KUBE-POSTROUTING'])
    await iptables(`-t nat ${line}`)

  const capture = ['timeout', '50', 'tcpdump', '-c1', '-nn', '-i', 'br0', 'dst', GROUP]
  const captured = outside.run(capture)
  const sender = new LabProcess({
    namespace: one.namespace,
    command: [process.execPath, '-e', TO_GROUP, overlayAddress, one.address],
    log: join(t.testdir(), 'sender.log'),
    outlive: false,
  })
  t.teardown(() => sender.end('SIGKILL'))
  t.match(await captured, ` IP ${overlayAddress}.`, 'multicast: as it is')
}

/** The kernel numbers a rule when it is written: a look that mends others must leave these. */
async function expectSameHandles(t: Test, table: string): Promise<void> {
  const list = (): Promise<string> =>
    one.run(['nft', '-s', '-a', 'list', 'table', ...table.split(' ')])
  const [before, forward] = [await list(), await save('filter')]
  for (let looks = 0; looks < 2; looks++) {
    await one.run(['iptables', '-F', 'FLANNEL-FWD'])
    await waitFor('a look', async () => (await save('filter')) === forward)
  }
  t.equal(await list(), before)
}

async function save(table: string, variant = ''): Promise<string> {
  const text = await one.run([`iptables${variant}-save`, '-t', table])
  return text
    .split('\n')
    .filter(line => line.startsWith('-A'))
    .join('\n')
}

const masquerade = (s: string): string =>
  [
    '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
    '-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN',
    `-A FLANNEL-POSTRTG -s ${s} -d ${network} -m comment --comment "flanneld masq" -j RETURN`,
    `-A FLANNEL-POSTRTG -s ${network} -d ${s} -m comment --comment "flanneld masq" -j RETURN`,
    `-A FLANNEL-POSTRTG ! -s ${network} -d ${s} -m comment --comment "flanneld masq" -j RETURN`,
    `-A FLANNEL-POSTRTG -s ${network} ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`,
    `-A FLANNEL-POSTRTG ! -s ${network} -d ${network} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`,
  ].join('\n')

const FORWARD = [
  '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
  `-A FLANNEL-FWD -s ${network} -m comment --comment "flanneld forward" -j ACCEPT`,
  `-A FLANNEL-FWD -d ${network} -m comment --comment "flanneld forward" -j ACCEPT`,
].join('\n')

t.test('iptables: the rules are those of flannel', async t => {
  await waitFor('they are there', async () => (await save('nat')) === masquerade(subnet))
  t.equal(await save('nat'), masquerade(subnet))
  t.equal(await save('filter'), FORWARD)
})

t.test('packets to addresses of the subnet that nobody has end here', async t => {
  const route = `blackhole ${subnet} proto 76 metric 4278198272`
  const list = (): Promise<string> =>
    one.run(['ip', 'route', 'show', 'type', 'blackhole'])
  t.match(await list(), route, 'from the start')
  await one.run(['ip', 'route', 'delete', ...route.split(' ')])
  await waitFor('it is put back', async () => (await list()).includes(route))
})

t.test('iptables: what they mean to packets', expectMeaning)

t.test('iptables: what is right is not written again', async t => {
  await expectSameHandles(t, 'ip nat')
})

type Spoiled = readonly [what: string, lines: readonly (readonly string[])[]]

/** Rules of our chains in their order, and those of the chains that lead there in any. */
function sorted(rules: string): string {
  const lines = rules.split('\n')
  const ours = lines.filter(line => line.startsWith('-A FLANNEL'))
  const others = lines.filter(line => !line.startsWith('-A FLANNEL'))
  return [...ours, ...others.toSorted()].join('\n')
}

t.test('iptables: what others spoil is put back, and theirs is left alone', async t => {
  const foreign = '-A FORWARD -s 203.0.113.0/24 -j ACCEPT'
  await one.run(['iptables', ...foreign.split(' ')])
  const state = async (): Promise<string> =>
    `${await save('nat')}\n${await save('filter')}`
  const right = await state()
  const words = (text: string): string[] => text.split(' ')
  const jump = ['-m', 'comment', '--comment', 'flanneld forward', '-j', 'FLANNEL-FWD']
  const comment = ['-m', 'comment', '--comment', 'flanneld masq', '-j', 'RETURN']
  const spoil: readonly Spoiled[] = [
    ['a chain flushed', [words('-t nat -F FLANNEL-POSTRTG')]],
    ['a rule deleted', [words('-t nat -D FLANNEL-POSTRTG 3')]],
    [
      'a rule doubled',
      [[...words(`-t nat -A FLANNEL-POSTRTG -s ${subnet} -d ${network}`), ...comment]],
    ],
    [
      'rules in another order',
      [
        words('-t nat -D FLANNEL-POSTRTG 2'),
        [...words(`-t nat -A FLANNEL-POSTRTG -s ${subnet} -d ${network}`), ...comment],
      ],
    ],
    [
      'a rule put before',
      [words(`-t nat -I FLANNEL-POSTRTG 1 -s ${network} -j MASQUERADE`)],
    ],
    ['the jump deleted', [words('-t nat -F POSTROUTING')]],
    ['the jump doubled', [['-I', 'FORWARD', '1', ...jump]]],
  ]
  const repairs = async (): Promise<number> =>
    (await readFile(one.daemon.logFile, 'utf8')).split('; put back').length
  for (const [what, lines] of spoil) {
    const before = await repairs()
    for (const line of lines) await one.run(['iptables', ...line])
    const begin = performance.now()
    await waitFor(what, async () => {
      if ((await repairs()) === before) return false
      const now = await state()
      // A jump that is put back stands behind what others have put there since.
      return sorted(now) === sorted(right)
    })
    t.pass(`${what}: right after ${(performance.now() - begin).toFixed(0)} ms`)
  }
  t.match(await save('filter'), foreign)
  await one.run(['iptables', '-D', ...foreign.split(' ').slice(1)])
})

t.test("Docker's chain for others gets a jump, before its last word", async t => {
  for (const line of [
    '-N DOCKER-USER',
    '-A DOCKER-USER -s 203.0.113.7 -j DROP',
    '-A DOCKER-USER -j RETURN',
    '-I FORWARD 1 -j DOCKER-USER',
    '-I FORWARD 2 -o docker0 -j DROP',
  ])
    await one.run(['iptables', ...line.split(' ')])

  const wanted = [
    '-A DOCKER-USER -s 203.0.113.7/32 -j DROP',
    '-A DOCKER-USER -m comment --comment "flanneld forward" -j FLANNEL-FWD',
    '-A DOCKER-USER -j RETURN',
  ].join('\n')
  await waitFor('it is there', async () => (await save('filter')).includes(wanted))
  t.equal(await seen(two.container, one.container.address), two.container.address)
})

t.test("Docker's refusals that no rule of ours can undo are named", async t => {
  const rule = [
    'PREROUTING',
    '-d',
    one.container.address,
    '!',
    '-i',
    'docker0',
    '-j',
    'DROP',
  ]
  await one.run(['iptables', '-t', 'raw', '-A', ...rule])
  await one.daemon.kill('SIGTERM')
  await one.daemon.start()

  await waitFor('it is named', async () => {
    const { stdout } = await flannelctl(one, ['status'])
    return stdout.includes(
      `Docker refuses packets from other hosts to ${one.container.address} (iptables -t raw -S PREROUTING); set "allow-direct-routing"`,
    )
  })
  t.match(
    await flannelctl(one, ['status']),
    { exitCode: 0 },
    'which is no trouble of ours',
  )
  await one.run(['iptables', '-t', 'raw', '-F'])
})

const NFT_POSTRTG = (s: string): string[] => [
  'meta mark & 0x00004000 == 0x00004000 return',
  `ip saddr ${s} ip daddr ${network} return`,
  `ip saddr ${network} ip daddr ${s} return`,
  `ip saddr != ${network} ip daddr ${s} return`,
  `ip saddr ${network} ip daddr != 224.0.0.0/4 masquerade fully-random`,
  `ip saddr != ${network} ip daddr ${network} masquerade fully-random`,
]

/** A chain of flannel's table, line by line. */
async function nftChain(name: string): Promise<string[]> {
  const text = await one
    .run(['nft', '-s', 'list', 'chain', 'ip', 'flannel-ipv4', name])
    .catch(() => '')
  return text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !/^(table|chain|\})/.test(line))
}

t.test(
  'nftables: by config apply, and of iptables only what Docker makes needful',
  async t => {
    const config = JSON.stringify({ Network: network, EnableNFTables: true })
    t.match(await flannelctl(one, ['config', 'set', config]), { exitCode: 0 })
    for (const host of [one, two]) await flannelctl(host, ['config', 'apply'])

    await waitFor(
      'the rules are there',
      async () => (await nftChain('postrtg')).length > 0,
    )
    t.strictSame(await nftChain('postrtg'), [
      'comment "chain to manage traffic masquerading by flannel"',
      'type nat hook postrouting priority srcnat; policy accept;',
      ...NFT_POSTRTG(subnet),
    ])
    t.strictSame(await nftChain('forward'), [
      'comment "chain to accept flannel traffic"',
      'type filter hook forward priority filter; policy accept;',
      `ip saddr ${network} accept`,
      `ip daddr ${network} accept`,
    ])
    await waitFor(
      'those of iptables are gone',
      async () => !(await save('nat')).includes('FLANNEL'),
    )
    t.match(
      await save('filter'),
      '-A DOCKER-USER -m comment --comment "flanneld forward" -j FLANNEL-FWD',
    )
    await waitFor(
      'where there is no Docker, nothing is left of them',
      async () => !(await two.run(['iptables-save'])).includes('FLANNEL'),
    )
    t.equal(await seen(two.container, one.container.address), two.container.address)
  },
)

t.test('nftables: what they mean to packets', expectMeaning)

t.test('nftables: what is right is not written again', async t => {
  await expectSameHandles(t, 'ip flannel-ipv4')
})

t.test('nftables: what others spoil is put back, and theirs is left alone', async t => {
  const right = await nftChain('postrtg')
  const foreign = 'ip saddr 203.0.113.0/24 accept'
  await one.run([
    'nft',
    'add',
    'rule',
    'ip',
    'flannel-ipv4',
    'postrtg',
    ...foreign.split(' '),
  ])
  for (const [what, line] of [
    ['a chain flushed', 'flush chain ip flannel-ipv4 forward'],
    [
      'a rule put before',
      `insert rule ip flannel-ipv4 postrtg ip saddr ${network} masquerade`,
    ],
    [
      'a rule doubled',
      `add rule ip flannel-ipv4 postrtg ip saddr ${subnet} ip daddr ${network} return`,
    ],
  ] as const) {
    await one.run(['nft', ...line.split(' ')])
    const begin = performance.now()
    await waitFor(what, async () => {
      const now = await nftChain('postrtg')
      const forward = await nftChain('forward')
      return now.join('\n') === [...right, foreign].join('\n') && forward.length === 4
    })
    t.pass(`${what}: right after ${(performance.now() - begin).toFixed(0)} ms`)
  }
  await one.run(['nft', 'flush', 'ruleset'])
  await waitFor(
    'everything flushed',
    async () => (await nftChain('postrtg')).join('\n') === right.join('\n'),
  )
})

t.test('and back to iptables; cleanup leaves nothing', async t => {
  await flannelctl(one, ['config', 'set', JSON.stringify({ Network: network })])
  await flannelctl(one, ['config', 'apply'])
  await waitFor(
    'the rules are back',
    async () => (await save('nat')) === masquerade(subnet),
  )
  await waitFor('nftables has none', async () => (await nftChain('postrtg')).length === 0)

  await one.daemon.kill('SIGTERM')
  const { stdout } = await flannelctl(one, ['cleanup'])
  t.match(stdout, /removed our rules in iptables\S* filter FLANNEL-FWD/)
  t.equal(await save('nat'), '')
  t.notMatch(await save('filter'), /FLANNEL/)
  t.match(stdout, /removed the blackhole route of the subnet/)
  t.equal(await one.run(['ip', 'route', 'show', 'type', 'blackhole']), '')
})

t.test(
  "rules go where Docker's are: into iptables-legacy, if they are there",
  async t => {
    await one.run(['nft', 'flush', 'ruleset'])
    await one.run(['iptables-legacy', '-N', 'DOCKER-USER'])
    await one.run(['iptables-legacy', '-P', 'FORWARD', 'DROP'])

    await one.daemon.start()

    await waitFor(
      'they are there',
      async () => (await save('nat', '-legacy')) === masquerade(subnet),
    )
    t.match(await save('filter', '-legacy'), /^-A DOCKER-USER .* -j FLANNEL-FWD$/m)
    t.equal(await save('nat'), '', 'and not in the other kind')
    t.equal(await seen(one.container, OUTSIDE), one.address)
  },
)

for (const isNft of [false, true])
  t.test(`IPv6 with ${isNft ? 'nftables' : 'iptables'}`, async t => {
    const config = { ...DUAL, EnableNFTables: isNft, Backend: { Type: 'vxlan' } }
    const flags = ['--ip-masq', '--iptables-resync=1']
    const pair = await openPair(t, `fw6-${isNft ? 'nft' : 'ipt'}`, config, { flags })
    const [from, to] = [pair.addressOf(1, 6), pair.addressOf(2, 6)]
    const server = new LabProcess({
      namespace: pair.namespaceOf(2),
      command: [process.execPath, '-e', SERVER],
      log: join(pair.directory, 'server.log'),
      outlive: false,
    })
    t.teardown(() => server.end('SIGKILL'))
    const source = new LabNode(pair.namespaceOf(1))
    const isSeen = async (target: string, by: string, as: string): Promise<void> => {
      await waitFor(`${by} is seen by ${target} as ${as}`, async () => {
        const text = await seen(source, target, by)
        return text === as
      })
    }

    await isSeen(to, from, from)
    await isSeen('2001:db8::2', from, '2001:db8::1')
    const base = from.replace(/::1$/, '::')
    await isSeen(to, '2001:db8::1', base)
    const rules = await pair.inside(
      1,
      ...(isNft ? ['nft', 'list', 'tables'] : ['ip6tables-save']),
    )
    t.match(
      rules,
      isNft ? /^table ip6 flannel-ipv6$/m : /^-A FLANNEL-POSTRTG ! -s fd00:5::\/48 /m,
    )
    t.equal(isNft, !(await pair.inside(1, 'ip6tables-save')).includes('FLANNEL'))
  })
