/**
 * The walks of kernel.test.ts through a real kernel: whatever the leases were
 * before, and whatever somebody has spoiled meanwhile, it has what they ask for.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Backend } from '../../../lib/backend/backend.js'
import { planBackend } from '../../../lib/backend/backends.js'
import { batch, forceBatch } from '../../../lib/linux/ip-batch.js'
import { DUAL_NETWORK, backendContext } from '../../helpers/backend-context.js'
import { subnetOf } from '../../helpers/lease-host.js'
import { inOwnNetwork } from '../../helpers/own-network.js'
import { SEED, fc } from '../../helpers/property.js'
import { type Holding, anyWalk, toRemote } from './remote-walks.js'

const WALKS = 6
const OWN = subnetOf('10.5.1.0/24', 'fd00:5:0:1::/64')

await inOwnNetwork(t, import.meta.url, async () => {
  await batch([
    'link add eth0 type veth peer name peer0',
    'link set peer0 up',
    'link set eth0 up addrgenmode none',
    'address add 192.0.2.1/24 dev eth0',
    'address add 2001:db8::1/64 dev eth0 nodad',
  ])
  for (const backend of [
    { Type: 'vxlan' },
    { Type: 'host-gw' },
    { Type: 'vxlan', DirectRouting: true },
  ])
    t.test(`from any state to any other with ${JSON.stringify(backend)}`, async t => {
      const directory = mkdtempSync(join(tmpdir(), 'kernel-walk-'))
      t.teardown(() => {
        rmSync(directory, { recursive: true })
      })
      const context = backendContext({ ...DUAL_NETWORK, Backend: backend }, directory)
      const walks = fc.sample(anyWalk(6), { numRuns: WALKS, seed: SEED })
      let steps = 0
      let running: Backend | undefined
      for (const walk of walks) {
        // What the walk before has left is what a daemon finds that was killed.
        running = await planBackend(context).start(OWN)
        for (const state of walk) {
          await running.apply(state.map(toRemote))
          const wanted = expected(backend, state)
          const found = kernelText()
          if (found !== wanted) t.equal(found, wanted, JSON.stringify(walk))
          await spoil(state, steps)
          await running.apply(state.map(toRemote))
          const mended = kernelText()
          if (mended !== wanted)
            t.equal(mended, wanted, `spoiled, ${JSON.stringify(state)}`)
          steps += 1
        }
      }
      t.pass(`${steps} states in ${WALKS} walks (FC_SEED=${SEED})`)
      await running?.close('end')
      t.equal(kernelText(), '', 'and nothing is left')
    })
})

/** What somebody else may have done since. */
async function spoil(state: readonly Holding[], step: number): Promise<void> {
  const [first] = state
  if (first === undefined) return
  const subnet = `10.5.${first.number}.0`
  const lines = [
    `route delete ${subnet}/24`,
    `route replace ${subnet}/24 via 192.0.2.77 dev eth0`,
    `neigh flush dev flannel.1 nud permanent`,
    `link delete flannel.1`,
    `route add 10.5.200.0/24 via 192.0.2.200 dev eth0 proto 76`,
    `link set flannel-v6.1 down`,
    `-6 route flush proto 76`,
  ]
  const line = lines[step % lines.length] ?? ''
  // There is no VXLAN device with host-gw, and no neighbour of a remote on the link.
  await forceBatch('ip', [line])
}

interface Json {
  readonly dst: string
  readonly gateway?: string
  readonly dev?: string
  readonly lladdr?: string
  readonly mac?: string
}

/** What the kernel says that it has, in the words of this test. */
function kernelText(): string {
  const list = (line: string): Json[] => {
    const [program = '', ...args] = line.split(' ')
    try {
      const text = execFileSync(program, args, { encoding: 'utf8', stdio: 'pipe' })
      return text.trim() === '' ? [] : (JSON.parse(text) as Json[])
    } catch {
      // There is no such device.
      return []
    }
  }
  const lines = ([4, 6] as const).flatMap(family => {
    const device = family === 4 ? 'flannel.1' : 'flannel-v6.1'
    return [
      ...list(`ip -json -${family} route show proto 76`).map(
        ({ dst, gateway, dev }) => `${dst} via ${gateway ?? '-'} on ${dev ?? '-'}`,
      ),
      ...list(`ip -json -${family} neigh show dev ${device} nud permanent`).map(
        ({ dst, lladdr }) => `${dst} is ${lladdr ?? '-'}`,
      ),
      ...list(`bridge -json fdb show dev ${device}`).flatMap(({ mac, dst }) =>
        mac === undefined ? [] : [`${mac} at ${dst}`],
      ),
      ...list(`ip -json -details link show dev ${device}`).map(
        () => `${device} is there`,
      ),
    ]
  })
  return lines.sort().join('\n')
}

/** What that is to be, straight from who holds what. */
function expected({ Type, DirectRouting }: Wish, state: readonly Holding[]): string {
  const isVxlan = Type === 'vxlan'
  const isTunnelled = isVxlan && DirectRouting !== true
  const taken = new Set<number>()
  const lines = state.flatMap(({ number, mac, host }) => {
    // Two remotes cannot have one MAC address: the first counts.
    if (isTunnelled && taken.has(mac)) return []
    taken.add(mac)
    const hex = mac.toString(16).padStart(2, '0')
    const subnet6 = `fd00:5:0:${number.toString(16)}::`
    if (!isTunnelled)
      return [
        `10.5.${number}.0/24 via 192.0.2.${host} on eth0`,
        `${subnet6}/64 via 2001:db8::${host.toString(16)} on eth0`,
      ]
    return [
      `10.5.${number}.0/24 via 10.5.${number}.0 on flannel.1`,
      `10.5.${number}.0 is 02:00:00:00:00:${hex}`,
      `02:00:00:00:00:${hex} at 192.0.2.${host}`,
      `02:00:00:00:06:${hex} at 2001:db8::${host.toString(16)}`,
      `${subnet6}/64 via ${subnet6} on flannel-v6.1`,
      `${subnet6} is 02:00:00:00:06:${hex}`,
    ]
  })
  const devices = isVxlan ? ['flannel.1 is there', 'flannel-v6.1 is there'] : []
  return [...lines, ...devices].sort().join('\n')
}

interface Wish {
  readonly Type: string
  readonly DirectRouting?: boolean
}
