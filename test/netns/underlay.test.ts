import t from 'tap'
import {
  type UnderlayOptions,
  chooseUnderlay,
  readHostNetwork,
} from '../../lib/backend/underlay.js'
import { formatAddress } from '../../lib/subnet/prefix.js'
import { inOwnNetwork, ip } from '../helpers/own-network.js'

const NONE: UnderlayOptions = {
  ifaces: [],
  ifaceRegexes: [],
  ifaceCanReach: '',
  publicIps: {},
  families: [4],
}

//   eth0 192.0.2.1/24 (default route)      eth1 198.51.100.1/24, 198.51.100.2/24 (203.0.113.0/24)
await inOwnNetwork(t, import.meta.url, () => {
  for (const name of ['eth0', 'eth1']) {
    ip(`link add ${name} type veth peer name ${name}-peer`)
    ip(`link set ${name}-peer up`)
    ip(`link set ${name} up`)
  }
  ip('link set eth1 mtu 1400')
  ip('address add 192.0.2.1/24 dev eth0')
  ip('address add 198.51.100.1/24 dev eth1')
  ip('address add 198.51.100.2/24 dev eth1')
  ip('route add default via 192.0.2.254')
  ip('route add 203.0.113.0/24 via 198.51.100.254 src 198.51.100.2')

  async function choose(options: Partial<UnderlayOptions>): Promise<string> {
    const host = await readHostNetwork(options.ifaceCanReach)
    const { device, mtu, addresses } = chooseUnderlay({ ...NONE, ...options }, host)
    return [device, mtu, ...Object.values(addresses).map(formatAddress)].join(' ')
  }

  t.test('the interface is found on a real host by every option', async t => {
    t.equal(await choose({}), 'eth0 1500 192.0.2.1')
    t.equal(await choose({ ifaces: ['eth1'] }), 'eth1 1400 198.51.100.1')
    t.equal(await choose({ ifaces: ['198.51.100.2'] }), 'eth1 1400 198.51.100.2')
    t.equal(await choose({ ifaceRegexes: ['100\\.2$'] }), 'eth1 1400 198.51.100.2')
    t.equal(await choose({ ifaceCanReach: '203.0.113.9' }), 'eth1 1400 198.51.100.2')
    t.equal(await choose({ ifaceCanReach: '8.8.8.8' }), 'eth0 1500 192.0.2.1')
    await t.rejects(choose({ ifaceCanReach: '240.0.0.1 dev nowhere' }), {
      code: 'ERR_UNDERLAY',
    })
  })

  t.test(
    'without a default route the operator is told to name the interface',
    async t => {
      ip('route del default')
      await t.rejects(choose({}), {
        code: 'ERR_UNDERLAY',
        message: /name the interface .* --iface/,
      })
    },
  )
})
