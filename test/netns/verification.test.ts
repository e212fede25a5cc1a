/**
 * What must not enter a host whose packets the kernel carries: each forged packet
 * raises its own counter and no other and reaches nobody; the same sender's honest
 * packet before it does.
 */
import t from 'tap'
import { type PacketFields, ipPacket } from '../helpers/packets.js'
import { waitFor } from '../helpers/wait-for.js'
import { referenceChecksum } from '../reference/checksum.js'
import { Injector } from './injector.js'
import { DUAL, type Pair, openPair, passes } from './open-pair.js'

const PORT = 8472
const STRANGER = '192.0.2.77'
const STRANGER6 = '2001:db8::77'
const VNI = 1

const VXLAN = { ...DUAL, Backend: { Type: 'vxlan' } }
const pair = await openPair(t, 'verify', VXLAN, { flags: ['--iptables-resync=1'] })
const run = (line: string): Promise<string> => pair.inside(2, ...line.split(' '))
await pair.inside(1, 'ip', 'address', 'add', `${STRANGER}/24`, 'dev', 'eth0')
await pair.inside(1, 'ip', 'address', 'add', `${STRANGER6}/64`, 'dev', 'eth0', 'nodad')
for (const family of [4, 6] as const) await passes(pair, family)

const injector = (from: string, to: string): Injector =>
  new Injector(t, pair.namespaceOf(1), from, to, PORT)
const holder = injector('192.0.2.1', '192.0.2.2')
const stranger = injector(STRANGER, '192.0.2.2')
const holder6 = injector('2001:db8::1', '2001:db8::2')
const stranger6 = injector(STRANGER6, '2001:db8::2')

const [from, to] = [pair.addressOf(1, 4), pair.addressOf(2, 4)]
const [from6, to6] = [pair.addressOf(1, 6), pair.addressOf(2, 6)]
const macOf = async (device: string): Promise<string> =>
  (await run(`ip -brief link show dev ${device}`)).split(/\s+/)[2] ?? ''
const [mac, mac6] = [await macOf('flannel.1'), await macOf('flannel-v6.1')]

function echo(fields: Partial<PacketFields> = {}): Buffer {
  const payload = Buffer.alloc(16)
  payload[0] = 8
  payload.writeUInt16BE(referenceChecksum(payload), 2)
  const addresses = { source: from, destination: to }
  return Buffer.from(ipPacket({ protocol: 1, payload, ...addresses, ...fields }))
}

function echo6(fields: Partial<PacketFields> = {}): Buffer {
  const payload = Buffer.alloc(16)
  payload[0] = 128
  const addresses = { source: from6, destination: to6 }
  return Buffer.from(ipPacket({ protocol: 58, payload, ...addresses, ...fields }))
}

/** A packet in a frame to host 2, behind a VXLAN header (RFC 7348). */
function frame(packet: Buffer, { vni = VNI, type = 0x0800, to = mac } = {}): Buffer {
  const header = Buffer.alloc(8 + 14)
  header[0] = 0x08
  header.writeUInt32BE(vni << 8, 4)
  header.write(to.replaceAll(':', ''), 8, 'hex')
  header.write('020000000001', 14, 'hex')
  header.writeUInt16BE(type, 20)
  return Buffer.concat([header, packet])
}

const frame6 = (packet: Buffer): Buffer => frame(packet, { type: 0x86dd, to: mac6 })

/** Waits where they cannot be read, or nothing is verified. */
async function drops(of: Pair = pair): Promise<Record<string, number>> {
  return await waitFor('what was dropped', async () => {
    const { verified } = await of.backend(2)
    return (verified as { drops: Record<string, number> } | undefined)?.drops
  })
}

/** Packets that the kernel of host 2 has taken from the overlay. */
async function taken(): Promise<number> {
  return (await received('flannel.1')) + (await received('flannel-v6.1'))
}

async function received(device: string): Promise<number> {
  const text = await run(`ip -s -json link show dev ${device}`)
  const [link] = JSON.parse(text) as { stats64: { rx: { packets: number } } }[]
  return link?.stats64.rx.packets ?? 0
}

/** An address of the network that no host leases, one of a host's own, and one of neither. */
const NOBODY = '10.5.255.9'
const NOBODY6 = 'fd00:5:0:ffff::9'

const FORGED: readonly (readonly [
  what: string,
  by: Injector,
  packet: Buffer,
  reason: string,
])[] = [
  ['a stranger', stranger, frame(echo()), 'unknownSender'],
  ['a stranger of IPv6', stranger6, frame6(echo6()), 'unknownSender'],
  ["a stranger's short datagram", stranger, frame(Buffer.alloc(0)), 'unknownSender'],
  ["nobody's source", holder, frame(echo({ source: NOBODY })), 'wrongSource'],
  ['our own source', holder, frame(echo({ source: to })), 'wrongSource'],
  ['the underlay as source', holder, frame(echo({ source: '192.0.2.1' })), 'wrongSource'],
  ["nobody's source of IPv6", holder6, frame6(echo6({ source: NOBODY6 })), 'wrongSource'],
  [
    'a foreign destination',
    holder,
    frame(echo({ destination: NOBODY })),
    'wrongDestination',
  ],
  [
    'a destination on the underlay',
    holder,
    frame(echo({ destination: '192.0.2.2' })),
    'wrongDestination',
  ],
  [
    'a foreign destination of IPv6',
    holder6,
    frame6(echo6({ destination: NOBODY6 })),
    'wrongDestination',
  ],
  ['ARP', holder, frame(Buffer.alloc(28), { type: 0x0806 }), 'notIp'],
  ['a frame of a VLAN', holder, frame(echo(), { type: 0x8100 }), 'notIp'],
  ['IPv6 in IPv4', holder, frame(echo6(), { type: 0x86dd }), 'notIp'],
  [
    "a stranger's low address of IPv6",
    stranger6,
    frame6(echo6({ source: '::8000:0:0:1' })),
    'unknownSender',
  ],
  ['half of an address', holder, frame(echo().subarray(0, 14)), 'wrongSource'],
]

t.test('honest packets of both families are taken, by this very way', async t => {
  const before = await taken()
  await holder.send([frame(echo())])
  await holder6.send([frame6(echo6())])
  await waitFor('they are', async () => (await taken()) === before + 2)
  t.strictSame(await drops(), {})
})

for (const [what, by, packet, reason] of FORGED)
  t.test(`${what} is dropped as ${reason}`, async t => {
    await waitFor('the path is quiet', async () => {
      const first = await taken()
      return first === (await taken())
    })
    const [before, takenBefore] = [await drops(), await taken()]

    await by.send([packet])

    await waitFor('it is counted', async () => {
      const now = await drops()
      return now[reason] === (before[reason] ?? 0) + 1
    })
    t.strictSame(await drops(), { ...before, [reason]: (before[reason] ?? 0) + 1 })
    t.equal(await taken(), takenBefore)
  })

t.test('offenders are named', async t => {
  const text = await pair.flannelctl(2, 'drops')

  t.match(text, new RegExp(`^${STRANGER} +${from} +unknownSender +1$`, 'm'))
  t.match(text, new RegExp(`^192\\.0\\.2\\.1 +${NOBODY} +wrongSource +1$`, 'm'))
  t.match(text, new RegExp(`^2001:db8::1 +${NOBODY6} +wrongSource +1$`, 'm'))
})

t.test('pieces of a datagram do not get by', async t => {
  const [before, takenBefore] = [await drops(), await taken()]
  const long = echo6({ source: NOBODY6, payload: Buffer.alloc(3000) })

  await stranger6.send([frame6(long)])

  await waitFor('it is counted', async () => ((await drops())['fragment'] ?? 0) > 0)
  t.strictSame(await drops(), { ...before, fragment: 1 })
  t.equal(await taken(), takenBefore)
})

t.test("another tool's VNI on the same port is not ours to judge", async t => {
  await run('ip link add other type vxlan id 99 dev eth0 local 192.0.2.2 dstport 8472')
  await run('ip link set other address 02:00:00:00:00:99 up')
  const before = await drops()

  const packet = frame(echo({ source: NOBODY }), { vni: 99, to: '02:00:00:00:00:99' })
  await stranger.send([packet])

  await waitFor('it arrives', async () => (await received('other')) > 0)
  t.strictSame(await drops(), before)
})

t.test('full speed, in super-packets, and no honest packet lost', async t => {
  const before = await drops()
  for (const family of [4, 6] as const) {
    const rate = await pair.transfer(family)
    t.ok(rate > 10, `IPv${family}: ${rate.toFixed(0)} Mbit/s`)
  }
  t.strictSame(await drops(), before)
})

const TABLE = 'inet flanneld-coreos.com_network'

t.test(
  'rules that somebody changes are put back, and what was counted stays',
  async t => {
    const right = await run(`nft -s -t list table ${TABLE}`)
    const before = await drops()
    for (const [what, line] of [
      ['a chain flushed', `nft flush chain ${TABLE} verify4`],
      ['the table deleted', `nft delete table ${TABLE}`],
      ['every rule flushed', 'nft flush ruleset'],
    ] as const) {
      await run(line)
      const begin = performance.now()
      await waitFor(what, async () => {
        const now = await run(`nft -s -t list table ${TABLE}`).catch(() => '')
        return now === right
      })
      t.pass(`${what}: right after ${(performance.now() - begin).toFixed(0)} ms`)
      await stranger.send([frame(echo())])
      await waitFor('it is counted', async () => {
        const now = await drops()
        return (now['unknownSender'] ?? 0) > 0
      })
    }
    t.ok((before['unknownSender'] ?? 0) > 0)
  },
)

t.test(
  'without a daemon the kernel goes on to verify; with --verify=off not',
  async t => {
    await pair.stop(2, 'SIGKILL')
    const before = await taken()
    await stranger.send([frame(echo())])
    await passes(pair, 4)
    await waitFor('it is taken', async () => (await taken()) > before)
    t.match(await run('nft list tables'), /flanneld/)

    await pair.restart(2, 'SIGKILL', ['--verify=inner'])
    const [inner, innerTaken] = [await drops(), await taken()]
    await stranger.send([frame(echo())])
    await waitFor('it is taken', async () => (await taken()) > innerTaken)
    await stranger.send([frame(echo({ source: NOBODY }))])
    await waitFor('and the other not', async () => {
      const now = await drops()
      return now['wrongSource'] === (inner['wrongSource'] ?? 0) + 1
    })

    await pair.restart(2, 'SIGKILL', ['--verify=off'])
    await waitFor(
      'no table of ours is left',
      async () => !(await run('nft list tables')).includes('flanneld'),
    )
  },
)

t.test('host-gw takes no container address that is routed another way', async t => {
  const config = JSON.stringify({ ...DUAL, Backend: { Type: 'host-gw' } })
  const etcd = '--endpoints=http://192.0.2.1:2379'
  await pair.inside(1, 'etcdctl', etcd, 'put', '/coreos.com/network/config', config)
  await Promise.all(([1, 2] as const).map(side => pair.restart(side, 'SIGTERM', [])))
  for (const family of [4, 6] as const) await passes(pair, family)
  // Most hosts have a default route, by which anybody would be answered.
  await run('ip route add default via 192.0.2.9')
  const before = await drops()
  const pingFrom = async (source: string): Promise<void> => {
    await pair.inside(1, 'ip', 'address', 'replace', `${source}/32`, 'dev', 'lo')
    await pair.inside(1, 'ping', '-c', '1', '-W', '1', '-I', source, to).catch(() => '')
  }

  const grows = (reason: string): Promise<unknown> =>
    waitFor(
      `${reason} is counted`,
      async () => ((await drops())[reason] ?? 0) > (before[reason] ?? 0),
    )

  await pingFrom(NOBODY)
  await grows('wrongSource')
  t.strictSame(await drops(), {
    ...before,
    wrongSource: (before['wrongSource'] ?? 0) + 1,
  })
  // A lease that is routed by another device.
  await run(`ip route replace ${from}/32 dev lo`)
  await pingFrom(from)
  await grows('reversePath')
  t.equal((await drops())['reversePath'], (before['reversePath'] ?? 0) + 1)
  await run(`ip route delete ${from}/32 dev lo`)
})

t.test('cleanup takes the rules away', async t => {
  await pair.stop(2, 'SIGTERM')
  t.match(
    await pair.flannelctl(2, 'cleanup', '--dry-run'),
    /would remove our rules in nft inet flanneld-/,
  )
  await pair.flannelctl(2, 'cleanup')
  t.notMatch(await run('nft list tables'), /flanneld/)
})

t.test('with subnets of other lengths', async t => {
  const lengths = { SubnetLen: 21, IPv6SubnetLen: 60 }
  const config = { ...DUAL, ...lengths, Backend: { Type: 'vxlan', DirectRouting: false } }
  const odd = await openPair(t, 'verify-odd', config)
  for (const family of [4, 6] as const) {
    await passes(odd, family)
    const before = await drops(odd)
    t.ok((await odd.transfer(family)) > 10)
    t.strictSame(await drops(odd), before)
  }
  // An address of the half of the /21 that another host may lease.
  const [, third = '0'] = /^10\.5\.(\d+)\./.exec(odd.addressOf(1, 4)) ?? []
  const [inside, outside] = [Number(third) + 7, (Number(third) + 8) % 256].map(
    byte => `10.5.${byte}.9`,
  )
  for (const [address = '', isTaken] of [
    [inside, true],
    [outside, false],
  ] as const) {
    await odd.inside(1, 'ip', 'address', 'add', `${address}/32`, 'dev', 'lo')
    const before = (await drops(odd))['wrongSource'] ?? 0
    const patience = isTaken ? '20' : '1'
    const ping = ['ping', '-c', '1', '-W', patience, '-I', address, odd.addressOf(2, 4)]
    const isAnswered = await odd.inside(1, ...ping).then(
      () => true,
      () => false,
    )
    t.equal(isAnswered, isTaken, address)
    const dropped = async (): Promise<number> =>
      ((await drops(odd))['wrongSource'] ?? 0) - before
    if (isTaken) t.equal(await dropped(), 0)
    else await waitFor('it is counted', async () => (await dropped()) === 1)
  }
})
