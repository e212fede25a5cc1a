/**
 * How the sources of ipip packets are verified. This needs nftables and no tunnel:
 * the rules stand before it, and see packets that any kernel takes in.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import {
  makeNamespaces,
  removeNamespaces,
  runInside,
} from '../../cmd/flannelctl/lab/namespaces.js'
import { Verification } from '../../lib/backend/kernel/verification.js'
import { ipipEncapsulation } from '../../lib/backend/kernel/verification-rules.js'
import { batch } from '../../lib/linux/ip-batch.js'
import { run } from '../../lib/linux/run.js'
import { parsePrefix } from '../../lib/subnet/prefix.js'
import { backendContext } from '../helpers/backend-context.js'
import { inOwnNetwork } from '../helpers/own-network.js'
import { ipPacket } from '../helpers/packets.js'
import { waitFor } from '../helpers/wait-for.js'
import { remote } from '../lib/backend/remote-walks.js'

const SENDER = 't-ipip-sender'
const NETWORK = '10.5.0.0/16'

/** Sends what its argument says, in hex, as a packet of IPv4 in IPv4 to the receiver. */
const SEND = `
  const { default: raw } = await import('raw-socket')
  const packet = Buffer.from(process.argv[1], 'hex')
  const socket = raw.createSocket({ protocol: 4 })
  socket.send(packet, 0, packet.length, '192.0.2.1', error => process.exit(error ? 1 : 0))
`

await inOwnNetwork(t, import.meta.url, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ipip-'))
  await removeNamespaces([SENDER])
  await makeNamespaces([SENDER])
  t.teardown(async () => {
    await removeNamespaces([SENDER])
    rmSync(directory, { recursive: true })
  })
  await batch([
    `link add eth0 type veth peer name eth0 netns ${SENDER}`,
    `link add flannel.ipip type veth peer name tunnel netns ${SENDER}`,
    'address add 192.0.2.1/24 dev eth0',
    'address add 10.5.1.1/32 dev lo',
    'link set eth0 up',
    'link set flannel.ipip up',
    'route add 10.5.2.0/24 dev flannel.ipip',
    'route add 172.16.0.0/16 dev flannel.ipip',
  ])
  const there = (line: string): Promise<string> => runInside(SENDER, line.split(' '))
  for (const line of [
    'address add 192.0.2.2/24 dev eth0',
    'address add 192.0.2.77/24 dev eth0',
    'address add 10.5.2.1/32 dev lo',
    'address add 172.16.0.1/32 dev lo',
    'link set lo up',
    'link set eth0 up',
    'link set tunnel up',
    'route add 10.5.1.1/32 dev tunnel',
  ])
    await there(`ip ${line}`)

  const context = backendContext({ Network: NETWORK }, directory, ['192.0.2.1'])
  const verification = new Verification(context, {
    families: [
      {
        encapsulation: ipipEncapsulation('flannel.ipip', parsePrefix(NETWORK)),
        subnet: parsePrefix('10.5.1.0/24'),
      },
    ],
    direct: undefined,
    mode: 'strict',
  })
  await verification.apply([remote(2), remote(3)])
  await run('nft', ['-f', '-'], {
    input:
      'table ip after { chain input { type filter hook input priority 0; ip protocol 4 counter; }; }',
  })

  /** Packets of ipip that the rules have let through. */
  async function passed(): Promise<number> {
    const text = await run('nft', ['list', 'table', 'ip', 'after'])
    return Number(/packets (\d+)/.exec(text)?.[1])
  }
  async function dropped(): Promise<Record<string, number>> {
    const description = await verification.describe()
    return (description as { drops: Record<string, number> }).drops
  }
  /** What becomes of a packet that the sender sends from one of its addresses. */
  async function outcome(from: string, source: string, to: string): Promise<string> {
    const [before, was] = [await dropped(), await passed()]
    await there(`ip route replace 192.0.2.1/32 dev eth0 src ${from}`)
    const hex = ipPacket({ source, destination: to }).toString('hex')
    await runInside(SENDER, [process.execPath, '-e', SEND, hex])
    // The kernel may take the packet in later than the sender has ended.
    return waitFor('the packet to be counted', async () => {
      const [after, is] = [await dropped(), await passed()]
      const grown = Object.keys(after).filter(each => after[each] !== (before[each] ?? 0))
      if (is !== was) grown.push('passed')
      return grown.length === 0 ? undefined : grown.join()
    })
  }

  t.test('what is let in, and why the rest is not', async t => {
    t.equal(verification.note, undefined)
    for (const [what, from, source, to, wanted] of [
      ['an honest packet', '192.0.2.2', '10.5.2.9', '10.5.1.9', 'passed'],
      ["another's source", '192.0.2.2', '10.5.3.9', '10.5.1.9', 'wrongSource'],
      ["nobody's source", '192.0.2.2', '10.5.9.9', '10.5.1.9', 'wrongSource'],
      ['to another subnet', '192.0.2.2', '10.5.2.9', '10.5.3.9', 'wrongDestination'],
      ['from a stranger', '192.0.2.77', '10.5.2.9', '10.5.1.9', 'unknownSender'],
      ["somebody else's tunnel", '192.0.2.77', '172.20.0.1', '172.20.0.2', 'passed'],
    ] as const)
      t.equal(await outcome(from, source, to), wanted, what)

    const ping = (source: string, seconds: number): Promise<string> =>
      there(`ping -c 1 -W ${seconds} -I ${source} 10.5.1.1`).catch(() => 'no answer')
    t.match(await ping('10.5.2.1', 20), ' 0% packet loss', 'what comes out of the tunnel')
    const before = (await dropped())['wrongSource'] ?? 0
    t.match(await ping('172.16.0.1', 1), 'no answer', 'from outside of the network')
    const counted = await waitFor('the drop to be counted', async () => {
      const now = (await dropped())['wrongSource'] ?? 0
      return now === before ? undefined : now
    })
    t.equal(counted, before + 1)
  })
})
