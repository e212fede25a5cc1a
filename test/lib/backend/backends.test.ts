import { pino } from 'pino'
import t, { type Test } from 'tap'
import { checkBackend, planBackend } from '../../../lib/backend/backends.js'
import type { BackendContext } from '../../../lib/backend/backend.js'
import { OVERHEAD } from '../../../lib/backend/mtu.js'
import { chooseUnderlay } from '../../../lib/backend/underlay.js'
import { systemClock } from '../../../lib/subnet/clock.js'
import { parseNetworkConfig } from '../../../lib/subnet/network-config.js'
import { hostNetwork, link } from '../../helpers/hosts.js'

function context(config: object, mtu = 1500): BackendContext {
  const host = hostNetwork({
    links: [link('eth0', ['192.0.2.1/24', 'fd09::1/64'], { mtu })],
    routes4: [],
  })
  const parsed = parseNetworkConfig(JSON.stringify({ Network: '10.5.0.0/16', ...config }))
  return {
    config: parsed,
    underlay: chooseUnderlay(
      {
        ifaces: ['eth0'],
        ifaceRegexes: [],
        ifaceCanReach: '',
        publicIps: {},
        families: parsed.families.map(({ network }) => network.family),
      },
      host,
    ),
    stateDir: '/nowhere',
    runDir: '/nowhere',
    verify: 'strict',
    udpQueues: 1,
    clock: systemClock(() => 0),
    log: pino({ level: 'silent' }),
  }
}

/** Why a configuration is refused: the same on any host and on this one. */
function refusal(t: Test, config: object, code: string): string {
  let message = ''
  for (const check of [
    planBackend,
    ({ config }: BackendContext) => {
      checkBackend(config)
    },
  ]) {
    try {
      check(context(config))
      t.fail('it was taken')
    } catch (error) {
      t.equal((error as { code?: string }).code, code)
      message = (error as Error).message
    }
  }
  return message
}

t.test('the overlay takes its headers off the MTU: 20 of IPv4 and 8 of UDP', t => {
  t.strictSame([OVERHEAD.udp(4), OVERHEAD.udp(6), OVERHEAD.alloc()], [28, 48, 0])
  t.equal(planBackend(context({})).overlayMtu, 1472)
  t.equal(planBackend(context({ Backend: { Type: 'udp' } }, 9000)).overlayMtu, 8972)
  t.equal(planBackend(context({ Backend: { Type: 'ALLOC' } })).overlayMtu, 1500)
  t.end()
})

t.test('a lease of udp and alloc names no type, as flannel has it', t => {
  t.equal(planBackend(context({})).leaseType, '')
  t.equal(planBackend(context({ Backend: { Type: 'alloc' } })).leaseType, '')
  t.end()
})

t.test("flannel's other types are refused by name, with what there is", t => {
  for (const type of [
    'vxlan',
    'host-gw',
    'wireguard',
    'ipip',
    'ipsec',
    'extension',
    'tencent-vpc',
  ]) {
    t.equal(
      refusal(t, { Backend: { Type: type } }, 'ERR_BACKEND_UNSUPPORTED'),
      `backend type ${type} is not supported by this build; set Backend.Type to udp or alloc`,
    )
  }
  t.end()
})

t.test('a type that nobody knows is refused by name, with what there is', t => {
  for (const type of ['gre', 'constructor', '__proto__', '']) {
    t.equal(
      refusal(t, { Backend: { Type: type } }, 'ERR_BACKEND_UNKNOWN'),
      `unknown backend type: ${type}; set Backend.Type to udp or alloc`,
    )
  }
  t.end()
})

t.test('nftables mode is refused by name', t => {
  t.equal(
    refusal(t, { enablenftables: true }, 'ERR_BACKEND_UNSUPPORTED'),
    'EnableNFTables: nftables mode is not implemented yet; set EnableNFTables to false',
  )
  t.end()
})

t.test('the udp backend refuses bad options and networks it has no room for', t => {
  for (const port of [0, 65_536, '8285', 1.5, -1]) {
    t.equal(
      refusal(t, { Backend: { Type: 'udp', Port: port } }, 'ERR_BACKEND_OPTION'),
      `Backend.Port is ${JSON.stringify(port)}; it must be a number from 1 to 65535`,
    )
  }
  t.equal(
    refusal(t, { Backend: { Type: 'udp', CopyDSCP: 'yes' } }, 'ERR_BACKEND_OPTION'),
    'Backend.CopyDSCP is "yes"; it must be true or false',
  )
  t.equal(
    refusal(t, { Network: '10.0.0.0/7', SubnetLen: 30 }, 'ERR_BACKEND_UNSUPPORTED'),
    'the udp backend carries 4194304 subnets at most: a SubnetLen of 29 or less in 10.0.0.0/7, not 30',
  )
  t.doesNotThrow(() => planBackend(context({ Network: '10.0.0.0/8' })))
  t.end()
})

t.test('packets of both families travel in IPv4, those of IPv6 alone in IPv6', t => {
  const dual = { EnableIPv6: true, IPv6Network: 'fd00::/48' }
  t.equal(planBackend(context(dual)).overlayMtu, 1472)
  const alone = { ...dual, EnableIPv4: false }
  t.equal(planBackend(context(alone)).overlayMtu, 1452)
  t.end()
})
