import { readFileSync } from 'node:fs'
import t from 'tap'
import { batch } from '../../lib/linux/ip-batch.js'
import { listLinks } from '../../lib/linux/ip-links.js'
import { listRoutes, routeTo } from '../../lib/linux/ip-routes.js'
import { restoreTable, saveTable, supportsRandomFully } from '../../lib/linux/iptables.js'
import * as libc from '../../lib/linux/libc.js'
import { readSysctl, writeSysctl } from '../../lib/linux/sysctl.js'
import { enableOffloads, openTun } from '../../lib/linux/tun.js'
import { inOwnNetwork, ip } from '../helpers/own-network.js'
import { waitFor } from '../helpers/wait-for.js'

await inOwnNetwork(t, import.meta.url, () => {
  t.test('links and routes of the kernel are read as they were made', async t => {
    await batch([
      'link add veth0 mtu 1400 type veth peer name veth1',
      'link set veth1 up',
      'link set veth0 up',
      'address add 192.0.2.1/24 dev veth0',
      'route add default via 192.0.2.254 metric 7',
      'route add 10.7.0.0/16 nexthop via 192.0.2.2 nexthop via 192.0.2.3',
      'route add blackhole 10.9.0.0/24 proto 76',
    ])
    t.teardown(() => ip('link del veth0'))

    const links = await listLinks()
    const veth = links.find(link => link.name === 'veth0')
    t.match(veth, { mtu: 1400, up: true, kind: 'veth' })
    t.match(veth?.addresses[0], { family: 4, local: '192.0.2.1', prefixLength: 24 })
    const routes = await listRoutes(4)
    const byDestination = (destination: string) =>
      routes.find(route => route.destination === destination)
    t.match(byDestination('0.0.0.0/0'), {
      metric: 7,
      nextHops: [{ device: 'veth0', gateway: '192.0.2.254' }],
    })
    t.equal(byDestination('10.7.0.0/16')?.nextHops.length, 2)
    t.match(byDestination('10.9.0.0/24'), {
      type: 'blackhole',
      protocol: '76',
      nextHops: [],
    })
    t.match(byDestination('192.0.2.0/24'), { protocol: 'kernel', source: '192.0.2.1' })
    t.strictSame(await routeTo('8.8.8.8'), {
      device: 'veth0',
      gateway: '192.0.2.254',
      source: '192.0.2.1',
    })
    await waitFor('the kernel makes a route of its own', async () =>
      (await listRoutes(6)).some(route => route.destination === 'fe80::/64'),
    )
  })

  t.test('an address that no route leads to is an error of words', async t => {
    await t.rejects(
      routeTo('8.8.8.8'),
      /ip -json route get 8\.8\.8\.8 failed .*unreachable/s,
    )
  })

  t.test('a batch stops at the line that fails and names it', async t => {
    t.teardown(() => ip('link del br0'))
    await t.rejects(
      batch([
        'link add br0 type bridge',
        'address add 10.1.0.1/24 dev nowhere',
        'link set br0 up',
      ]),
      {
        message: 'ip address add 10.1.0.1/24 dev nowhere: Cannot find device "nowhere"',
      },
    )
    const bridge = (await listLinks()).find(link => link.name === 'br0')
    t.equal(bridge?.up, false)
  })

  t.test('a table is changed in one step and read back in the same words', async t => {
    const payload = [
      '*nat',
      ':FC-TEST - [0:0]',
      '-A FC-TEST -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "a b" -j MASQUERADE',
      'COMMIT',
      '',
    ].join('\n')

    await restoreTable('iptables', payload)

    t.match(await saveTable('iptables', 'nat'), payload.split('\n')[2] ?? '')
    await t.rejects(
      restoreTable('iptables', '*nat\n-A FC-TEST -j NOWHERE\nCOMMIT\n'),
      /iptables-restore .* failed with exit code/,
    )
    t.match(
      await saveTable('iptables', 'nat'),
      payload.split('\n')[2] ?? '',
      'all or nothing',
    )
    t.equal(await supportsRandomFully('iptables'), true)
    t.equal(await supportsRandomFully('ip6tables'), true)
  })

  t.test(
    'a TUN device has the first free number and lives with its descriptor',
    async t => {
      const first = openTun('flannel%d')
      const second = openTun('flannel%d')
      t.strictSame([first.name, second.name], ['flannel0', 'flannel1'])
      t.match(
        (await listLinks()).find(link => link.name === 'flannel1'),
        { kind: 'tun', mac: undefined },
      )
      t.throws(() => openTun('flannel0'), { code: 'EBUSY' })
      libc.close(first.fd)
      t.notOk((await listLinks()).some(link => link.name === 'flannel0'))
      const again = openTun('flannel%d')
      t.equal(again.name, 'flannel0')
      t.throws(() => openTun('a-name-of-16-byt'), RangeError)
      for (const { fd } of [again, second]) libc.close(fd)
    },
  )

  t.test(
    'a packet of the kernel is read from the TUN behind its virtio header, without waiting',
    async t => {
      const { fd, name } = openTun('flannel%d')
      t.teardown(() => libc.close(fd))
      await batch([
        `link set ${name} addrgenmode none`,
        `address add 10.5.72.0/32 dev ${name}`,
        `link set ${name} up`,
        `route add 10.5.0.0/16 dev ${name}`,
      ])
      const bytes = Buffer.alloc(2000)
      t.equal(libc.read(fd, bytes, bytes.length), -1)
      t.equal(libc.errno(), libc.EAGAIN)

      const { createSocket } = await import('node:dgram')
      const socket = createSocket('udp4')
      t.teardown(() => socket.close())
      socket.send('ping', 9, '10.5.1.9')

      const length = await waitFor('the packet', () => {
        const read = libc.read(fd, bytes, bytes.length)
        return read > 0 ? read : undefined
      })
      t.equal(length, 10 + 20 + 8 + 4)
      t.equal(bytes.subarray(22, 30).toString('hex'), '0a0548000a050109')
      t.equal(bytes.toString('utf8', 38, 42), 'ping')
    },
  )

  t.test('super-packets of TCP and UDP are what this kernel has', t => {
    const { fd } = openTun('flannel%d')
    t.teardown(() => libc.close(fd))
    t.strictSame(enableOffloads(fd), { tcp: true, udp: true })
    t.end()
  })

  t.test('a kernel setting is written and read back', async t => {
    const name = 'net/ipv4/conf/lo/accept_local'
    await writeSysctl(name, '1')
    t.equal(await readSysctl(name), '1')
    t.equal(readFileSync(`/proc/sys/${name}`, 'utf8'), '1\n')
  })
})
