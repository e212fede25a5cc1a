/** Networks of IPv6 alone, with each backend that has devices or routes of its own. */
import t from 'tap'
import { openPair, reaches, passes } from './open-pair.js'

const SIX = { EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00:5::/48' }
const BACKENDS = [
  { Type: 'vxlan', mtu: 1500 - 70, device: 'flannel-v6.1' },
  { Type: 'host-gw', mtu: 1500, device: 'eth0' },
  { Type: 'udp', mtu: 1500 - 48, device: 'flannel0' },
] as const

for (const { Type, mtu, device } of BACKENDS)
  t.test(`${Type} with a network of IPv6 alone`, async t => {
    const pair = await openPair(t, `six-${Type}`, { ...SIX, Backend: { Type } })

    await passes(pair, 6)

    t.equal(pair.variables[0]?.has('FLANNEL_SUBNET'), false)
    t.equal(pair.variables[0]?.get('FLANNEL_MTU'), String(mtu))
    t.ok(await reaches(pair, 6, mtu, ['-M', 'do']), 'a packet of the MTU')
    t.ok((await pair.transfer(6)) > 10)
    const routes = await pair.inside(1, 'ip', '-6', 'route', 'show', 'proto', '76')
    t.match(routes, new RegExp(`^fd00:5:\\S* .*dev ${device} `, 'm'))
    const routes4 = await pair.inside(1, 'ip', '-4', 'route', 'show', 'proto', '76')
    t.equal(routes4, '', 'and nothing of IPv4')
  })
