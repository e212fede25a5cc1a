/**
 * What a kernel that has WireGuard is told. The kernel is one of text: programs that
 * write down how they are called stand before ip(8) and wg(8) on the path.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { planBackend } from '../../../../lib/backend/backends.js'
import { DUAL_NETWORK, backendContext } from '../../../helpers/backend-context.js'
import { subnetOf } from '../../../helpers/lease-host.js'
import { inOwnNetwork } from '../../../helpers/own-network.js'
import { remote } from '../remote-walks.js'

const OWN = subnetOf('10.5.1.0/24', 'fd00:5:0:1::/64')
const PROGRAMS = '/usr/local/sbin'
const PEER = Buffer.alloc(32, 9).toString('base64')

const IP = (log: string): string => `#!/bin/sh
# Lists and asks of the real kernel, and a device of WireGuard is a TUN in it.
case "$*" in
  "-batch -" | "-force -batch -")
    tee -a ${log} | sed 's/^link add \\(.*\\) type wireguard/tuntap add \\1 mode tun/' |
      /sbin/ip "$@" ;;
  *) exec /sbin/ip "$@" ;;
esac
`
const WG = (log: string): string => `#!/bin/sh
case "$1" in
  show) printf '(none)\\t(none)\\t4444\\toff\\n' ;;
  *) echo "wg $*" >> ${log} ;;
esac
`

await inOwnNetwork(t, import.meta.url, () => {
  const directory = mkdtempSync(join(tmpdir(), 'kernel-wg-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  const log = join(directory, 'log')
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', PROGRAMS])
  for (const [name, text] of [
    ['ip', IP(log)],
    ['wg', WG(log)],
  ] as const) {
    writeFileSync(join(PROGRAMS, name), text)
    chmodSync(join(PROGRAMS, name), 0o755)
  }

  t.test('a device of the kernel is made by ip and wg', async t => {
    const config = {
      ...DUAL_NETWORK,
      Backend: { Type: 'wireguard', Mode: 'ipv4', PSK: PEER },
    }
    const context = backendContext(config, directory)
    const backend = await planBackend(context).start(OWN)
    await backend.apply([
      remote(9, {
        backendData: { PublicKey: PEER, Port: 4000 },
        backendType: 'wireguard',
      }),
    ])

    const lines = readFileSync(log, 'utf8').trimEnd().split('\n')

    t.strictSame(lines.slice(0, 10), [
      'route replace unreachable 10.5.0.0/16 metric 4278198272 proto 76',
      'route replace unreachable fd00:5::/48 metric 4278198272 proto 76',
      'link add flannel-wg type wireguard',
      `wg set flannel-wg listen-port 51820 private-key ${directory}/wireguard-key`,
      'link set dev flannel-wg addrgenmode none',
      `link set dev flannel-wg alias flanneld:${directory.split('/').at(-1) ?? ''}`,
      'link set dev flannel-wg mtu 1420',
      'link set dev flannel-wg up',
      'address add 10.5.1.0/32 dev flannel-wg',
      'address add fd00:5:0:1::/128 dev flannel-wg nodad',
    ])
    t.ok(
      lines.includes(
        `wg set flannel-wg peer ${PEER} preshared-key ${directory}/wireguard-psk endpoint 192.0.2.9:4000 persistent-keepalive 0 allowed-ips 10.5.9.0/24,fd00:5:0:9::/64`,
      ),
      'the peer',
    )
    for (const line of [
      'route replace 10.5.0.0/16 dev flannel-wg proto 76 scope global',
      'route replace fd00:5::/48 dev flannel-wg proto 76',
    ])
      t.ok(lines.includes(line), line)
    t.match(await backend.describe(), { publicKey: String, mode: 'ipv4' })
    await backend.close('end')
    t.match(readFileSync(log, 'utf8'), /\nlink delete flannel-wg\n$/)
  })
})
