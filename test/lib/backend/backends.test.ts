import { pino } from 'pino'
import t, { type Test } from 'tap'
import { checkBackend, planBackend } from '../../../lib/backend/backends.js'
import type { BackendContext } from '../../../lib/backend/backend.js'
import { OVERHEAD } from '../../../lib/backend/mtu.js'
import { chooseUnderlay } from '../../../lib/backend/underlay.js'
import { systemClock } from '../../../lib/subnet/clock.js'
import { parseAddress } from '../../../lib/subnet/prefix.js'
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
    resyncMs: 5000,
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

t.test("flannel's other types are refused by name, with what to use instead", t => {
  const cloud =
    'host-gw where all hosts are on one link, or else vxlan or udp, which need nothing of the cloud'
  for (const [type, instead] of [
    ['ipsec', 'wireguard, which encrypts too'],
    ['tencent-vpc', cloud],
    ['aws-vpc', cloud],
    ['gce', cloud],
    ['ali-vpc', cloud],
  ] as const)
    t.equal(
      refusal(t, { Backend: { Type: type } }, 'ERR_BACKEND_UNSUPPORTED'),
      `backend type ${type} is not supported by this build; set Backend.Type to ${instead}`,
    )
  t.end()
})

t.test('wireguard takes 80 off the MTU, and refuses options that make no sense', t => {
  const mtuOf = (backend: object): number =>
    planBackend(context({ Backend: { Type: 'wireguard', ...backend } })).overlayMtu
  t.equal(mtuOf({}), 1420)
  t.equal(mtuOf({ MTU: 1400 }), 1320)
  const refused = (backend: object): string =>
    refusal(t, { Backend: { Type: 'wireguard', ...backend } }, 'ERR_BACKEND_OPTION')
  t.match(refused({ Mode: 'both' }), /no valid Mode configured: it must be separate, /)
  t.match(refused({ ListenPort: 70_000 }), /^Backend\.ListenPort is 70000/)
  t.match(refused({ ListenPortV6: '51821' }), /^Backend\.ListenPortV6 is "51821"/)
  t.match(refused({ PersistentKeepaliveInterval: -1 }), /KeepaliveInterval is -1/)
  const secret = 'c2VjcmV0IGJ1dCB0b28gc2hvcnQ='
  t.notMatch(refused({ PSK: secret }), secret, 'a secret, nearly')
  t.match(refused({ PSK: 5 }), /^Backend\.PSK is no key/)
  t.end()
})

t.test('ipip takes a header off the MTU, and carries IPv4 alone', t => {
  const ipip = { Backend: { Type: 'ipip' } }
  t.equal(planBackend(context(ipip)).overlayMtu, 1480)
  t.match(
    refusal(
      t,
      { ...ipip, EnableIPv6: true, IPv6Network: 'fd00:5::/48' },
      'ERR_BACKEND_UNSUPPORTED',
    ),
    /^the ipip backend carries IPv4 alone; use vxlan or wireguard/,
  )
  t.end()
})

t.test('a type that nobody knows is refused by name, with what there is', t => {
  for (const type of ['gre', 'constructor', '__proto__', '']) {
    t.equal(
      refusal(t, { Backend: { Type: type } }, 'ERR_BACKEND_UNKNOWN'),
      `unknown backend type: ${type}; set Backend.Type to udp, vxlan, host-gw, wireguard, ipip, alloc or extension`,
    )
  }
  t.end()
})

t.test('vxlan takes its headers off the MTU, and off that of its option', t => {
  const mtuOf = (backend: object): number =>
    planBackend(context({ Backend: { Type: 'vxlan', ...backend } })).overlayMtu
  t.strictSame([OVERHEAD.vxlan(4), OVERHEAD.vxlan(6)], [50, 70])
  t.equal(mtuOf({}), 1450)
  t.equal(mtuOf({ MTU: 1400 }), 1350)
  t.equal(planBackend(context({ Backend: { Type: 'vxlan' } }, 9000)).leaseType, 'vxlan')
  t.end()
})

t.test('vxlan refuses options that cannot be meant', t => {
  for (const [option, why] of [
    [{ VNI: 0 }, 'Backend.VNI is 0; it must be a number from 1 to 16777215'],
    [{ VNI: '1' }, 'Backend.VNI is "1"; it must be a number from 1 to 16777215'],
    [{ Port: 65_536 }, 'Backend.Port is 65536; it must be a number from 0 to 65535'],
    [{ GBP: 1 }, 'Backend.GBP is 1; it must be true or false'],
    [{ Learning: 'no' }, 'Backend.Learning is "no"; it must be true or false'],
    [
      { DirectRouting: 'yes' },
      'Backend.DirectRouting is "yes"; it must be true or false',
    ],
    [{ MTU: 600 }, 'Backend.MTU is 600; it is that of the outer packets, 1280 or more'],
  ] as const) {
    const config = { Backend: { Type: 'vxlan', ...option } }
    t.equal(refusal(t, config, 'ERR_BACKEND_OPTION'), why)
  }
  t.throws(() => planBackend(context({ Backend: { Type: 'vxlan', MTU: 9000 } })), {
    message: 'Backend.MTU is 9000, more than the 1500 of eth0',
  })
  t.end()
})

t.test('host-gw takes nothing off the MTU, and is not for hosts behind NAT', t => {
  const plan = planBackend(context({ Backend: { Type: 'host-gw' } }))
  t.strictSame([plan.overlayMtu, plan.leaseType], [1500, 'host-gw'])
  const here = context({ Backend: { Type: 'host-gw' } })
  const publicAddresses = { 4: parseAddress('203.0.113.1') }
  const behindNat = { ...here, underlay: { ...here.underlay, publicAddresses } }
  t.throws(() => planBackend(behindNat), {
    code: 'ERR_BACKEND_UNSUPPORTED',
    message: /your PublicIP differs from interface IP.*192\.0\.2\.1 on eth0/,
  })
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
