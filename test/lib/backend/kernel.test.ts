/** Kernel backends as text: what is wanted, what is there, and the lines between. */
import t from 'tap'
import {
  type Changes,
  type KernelObject,
  byKey,
  changesBetween,
} from '../../../lib/backend/kernel/objects.js'
import { Rivalry } from '../../../lib/backend/kernel/rivalry.js'
import { linesToEnsure } from '../../../lib/backend/kernel/own-link.js'
import { type VtepFields, vtepDevice } from '../../../lib/backend/kernel/vtep-device.js'
import { type Direct, wantHostGw } from '../../../lib/backend/host-gw.js'
import type { Wanted } from '../../../lib/backend/kernel/kernel-backend.js'
import { wantVxlan } from '../../../lib/backend/kernel/vxlan-objects.js'
import type { Remote } from '../../../lib/backend/backend.js'
import type { Link } from '../../../lib/linux/ip-links.js'
import { formatAddress, parsePrefix } from '../../../lib/subnet/prefix.js'
import { ManualClock } from '../../fakes/manual-clock.js'
import { fc, holds } from '../../helpers/property.js'
import { anyWalk, remote, toRemote } from './remote-walks.js'

const FIELDS: VtepFields = {
  family: 4,
  subnet: parsePrefix('10.5.1.0/24'),
  name: 'flannel.1',
  alias: 'flanneld:net',
  vni: 1,
  port: 8472,
  link: 'eth0',
  local: '192.0.2.1',
  learning: false,
  gbp: false,
  mtu: 1450,
  mac: '02:00:00:00:00:01',
  addresses: [{ family: 4, address: '10.5.1.0' }],
  networks: [parsePrefix('10.5.0.0/16')],
}
const DEVICE = vtepDevice(FIELDS)
const DEVICE6 = vtepDevice({
  ...FIELDS,
  family: 6,
  subnet: parsePrefix('fd00:5:0:1::/64'),
  name: 'flannel-v6.1',
  local: '2001:db8::1',
  mac: '02:00:00:00:06:01',
  addresses: [{ family: 6, address: 'fd00:5:0:1::' }],
  networks: [parsePrefix('fd00:5::/48')],
})
const NO_DIRECT = { device: 'eth0', addresses: new Set<string>() }

const textOf = (objects: readonly KernelObject[]): string[] =>
  objects.map(({ key, spec }) => `${key} ${spec}`)

t.test('a remote is three objects of each family, as flannel makes them', t => {
  const { objects, skipped } = wantVxlan([remote(2)], [DEVICE, DEVICE6], NO_DIRECT)

  t.strictSame(
    objects.flatMap(({ program, put }) => put.map(line => `${program} ${line}`)),
    [
      'bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent',
      'ip neighbour replace 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent',
      'ip route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 76',
      'bridge fdb replace 02:00:00:00:06:02 dev flannel-v6.1 dst 2001:db8::2 self permanent',
      'ip neighbour replace fd00:5:0:2:: lladdr 02:00:00:00:06:02 dev flannel-v6.1 nud permanent',
      'ip route delete fd00:5:0:2::/64 metric 1024',
      'ip route replace fd00:5:0:2::/64 via fd00:5:0:2:: dev flannel-v6.1 onlink proto 76',
    ],
  )
  t.strictSame(skipped, [])
  t.end()
})

t.test('a remote on the link is one route with DirectRouting', t => {
  const direct = { device: 'eth0', addresses: new Set(['192.0.2.2']) }
  const { objects } = wantVxlan([remote(2), remote(3)], [DEVICE], direct)

  t.strictSame(textOf(objects), [
    'route 10.5.2.0/24 via 192.0.2.2 dev eth0',
    'fdb flannel.1 02:00:00:00:00:03 dst 192.0.2.3',
    'neighbour flannel.1 10.5.3.0 lladdr 02:00:00:00:00:03',
    'route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink',
  ])
  t.end()
})

t.test('a record that cannot be used is left out, and says why', t => {
  const cases: readonly (readonly [Partial<Remote['holder']>, RegExp])[] = [
    [{ backendData: undefined }, /no VtepMAC/],
    [{ backendData: 'x' }, /no VtepMAC/],
    [{ backendData: { VtepMAC: '02:00:00:00:00' } }, /no VtepMAC/],
    [{ backendData: { VtepMAC: '01:00:5e:00:00:01' } }, /no VtepMAC/],
    [{ backendData: { VtepMAC: '00:00:00:00:00:00' } }, /no VtepMAC/],
    [{ backendData: { VtepMAC: '02:00:00:00:00:02; reboot' } }, /no VtepMAC/],
    [
      { backendData: { VNI: 7, VtepMAC: '02:00:00:00:00:02' } },
      /its VNI is 7, ours is 1/,
    ],
    [{ backendData: { VtepMAC: DEVICE.mac.toUpperCase() } }, /its MAC address is ours/],
    [{ backendData: { VtepMAC: '02:00:00:00:00:03' } }, /is that of 10\.5\.3\.0\/24/],
    [{ publicIp: undefined as never }, /no PublicIP of IPv4/],
  ]
  for (const [fields, why] of cases) {
    const { objects, skipped } = wantVxlan(
      [remote(3), remote(2, fields)],
      [DEVICE],
      NO_DIRECT,
    )
    t.equal(objects.length, 3, 'the other is there')
    t.match(skipped, [{ why }])
  }
  t.end()
})

/** A kernel that keeps lines. */
class TextKernel {
  readonly objects = new Map<string, KernelObject>()

  run({ removed, put }: Changes): void {
    for (const { key } of removed) this.objects.delete(key)
    for (const object of put) {
      // A route needs its neighbour and that its entry, as packets do.
      const below = [...this.objects.values()].filter(({ rank }) => rank < object.rank)
      if (object.spec.includes('onlink') && below.length === 0)
        throw new Error(`${object.key} before what it needs`)
      this.objects.set(object.key, object)
    }
  }
}

/** What each backend type makes of remotes, on a host that has every one of them on its link or none. */
const TYPES: Readonly<Record<string, (remotes: readonly Remote[]) => Wanted>> = {
  vxlan: remotes => wantVxlan(remotes, [DEVICE, DEVICE6], NO_DIRECT),
  'host-gw': remotes => wantHostGw(remotes, [4, 6], onLinkOf(remotes)),
  'vxlan with DirectRouting': remotes =>
    wantVxlan(remotes, [DEVICE, DEVICE6], onLinkOf(remotes)),
}

/** Every other host is on the link. */
function onLinkOf(remotes: readonly Remote[]): Direct {
  const texts = remotes.flatMap(({ holder }) =>
    [holder.publicIp, holder.publicIpv6].map(address => formatAddress(address!)),
  )
  return {
    device: 'eth0',
    addresses: new Set(texts.filter(text => /[02468ace]$/.test(text))),
  }
}

for (const [type, want] of Object.entries(TYPES))
  t.test(`${type}: from any state to any other, and a second look finds nothing`, t =>
    holds(
      t,
      fc.property(anyWalk(12), walk => {
        const kernel = new TextKernel()
        return walk.every(state => {
          const wanted = byKey(want(state.map(toRemote)).objects)
          kernel.run(changesBetween(kernel.objects, wanted))
          const again = changesBetween(kernel.objects, wanted)
          const isSame =
            textOf([...kernel.objects.values()])
              .sort()
              .join() ===
            textOf([...wanted.values()])
              .sort()
              .join()
          return isSame && again.put.length + again.removed.length === 0
        })
      }),
    ),
  )

const LINK: Link = {
  index: 4,
  name: 'flannel.1',
  mtu: 1450,
  up: true,
  hasCarrier: true,
  kind: 'vxlan',
  mac: DEVICE.mac,
  alias: DEVICE.alias,
  vxlan: {
    vni: 1,
    port: 8472,
    local: '192.0.2.1',
    link: 'eth0',
    learning: false,
    gbp: false,
  },
  ipip: undefined,
  addresses: [address('10.5.1.0', 32)],
}

function address(local: string, prefixLength: number): Link['addresses'][number] {
  return {
    family: local.includes(':') ? 6 : 4,
    local,
    prefixLength,
    scope: 'global',
    deprecated: false,
    temporary: false,
    dynamic: false,
    tentative: false,
  }
}

t.test('a device is mended where it can be, and else made anew', t => {
  const create = [
    'link add flannel.1 address 02:00:00:00:00:01 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning',
    'link set dev flannel.1 alias flanneld:net',
    'link set dev flannel.1 addrgenmode none',
    'link set dev flannel.1 mtu 1450 up',
    'address add 10.5.1.0/32 dev flannel.1',
  ]
  const cases: readonly (readonly [string, Link | undefined, readonly string[]])[] = [
    ['as it is to be', LINK, []],
    ['not there', undefined, create],
    ['another MTU', { ...LINK, mtu: 1400 }, ['link set dev flannel.1 mtu 1450']],
    ['down', { ...LINK, up: false }, ['link set dev flannel.1 up']],
    [
      'another MAC',
      { ...LINK, mac: '02:00:00:00:00:09' },
      ['link set dev flannel.1 address 02:00:00:00:00:01'],
    ],
    [
      "flannel's",
      { ...LINK, alias: undefined },
      ['link set dev flannel.1 alias flanneld:net'],
    ],
    [
      'an address of an earlier subnet, and one of an operator',
      { ...LINK, addresses: [address('10.5.7.0', 32), address('192.0.2.99', 24)] },
      [
        'address delete 10.5.7.0/32 dev flannel.1',
        'address add 10.5.1.0/32 dev flannel.1',
      ],
    ],
    ...(
      [
        { vni: 2 },
        { port: 4789 },
        { local: '192.0.2.3' },
        { link: 'eth1' },
        { learning: true },
        { gbp: true },
      ] as const
    ).map(
      change =>
        [
          JSON.stringify(change),
          { ...LINK, vxlan: { ...LINK.vxlan!, ...change } },
          ['link delete flannel.1', ...create],
        ] as const,
    ),
  ]
  for (const [what, link, lines] of cases)
    t.strictSame(linesToEnsure(DEVICE, link), lines, what)
  t.throws(() => linesToEnsure(DEVICE, { ...LINK, kind: 'dummy', vxlan: undefined }), {
    code: 'ERR_DEVICE',
    message: /there is a device flannel\.1 of kind dummy; remove it, or set another VNI/,
  })
  t.throws(() => linesToEnsure(DEVICE, { ...LINK, alias: 'flanneld:other' }), {
    message: /the device flannel\.1 is that of flanneld:other; set another VNI/,
  })
  t.end()
})

t.test('what somebody changes again and again is left alone for a minute', async t => {
  const clock = new ManualClock()
  const rivalry = new Rivalry(clock)
  const [object] = wantVxlan([remote(2)], [DEVICE], NO_DIRECT).objects
  const { key } = object!
  const changes = { removed: [], put: [object!] }

  const verdicts = Array.from({ length: 8 }, () => rivalry.note(key))
  t.strictSame(verdicts, [false, false, false, false, false, true, false, false])
  t.strictSame(rivalry.objects, [key])
  t.strictSame(rivalry.spare(changes).put, [])

  await clock.advance(61_000)
  t.strictSame(rivalry.objects, [])
  t.strictSame(rivalry.spare(changes).put, [object])
  for (let times = 0; times < 20; times++) {
    t.notOk(rivalry.note(key), 'now and then is no rivalry')
    await clock.advance(15_000)
  }
})
