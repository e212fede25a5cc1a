/** Three hosts on WireGuard, and one whose preshared key is another. */
import t from 'tap'
import { measureTcp } from '../../cmd/flannelctl/lab/throughput.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { openTestLab } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const lab = await openTestLab(t, {
  name: 't-wg3',
  hosts: 3,
  backend: { Type: 'wireguard', PersistentKeepaliveInterval: 5 },
  flags: ['--probe-rate=50'],
})
const hosts = [lab.host(1), lab.host(2), lab.host(3)]
const [one, two, three] = [lab.host(1), lab.host(2), lab.host(3)]

t.test('every container reaches every other, up to the MTU', async t => {
  t.equal(one.container.mtu, 1420)
  for (const from of hosts)
    for (const to of hosts.filter(host => host !== from)) {
      const ping = ['ping', '-c', '1', '-W', '2', '-M', 'do', to.container.address]
      await waitFor(`${from.name} reaches ${to.name}`, async () =>
        from.container.run([...ping, '-s', String(1420 - 28)]).then(
          text => text.includes(' 1 received'),
          () => false,
        ),
      )
    }
  const { bitsPerSecond } = await measureTcp(two.container, three.container, 1)
  t.ok(bitsPerSecond > 1e6, `${(bitsPerSecond / 1e6).toFixed(0)} Mbit/s`)
})

t.test('what a container sends is seen by nobody on the underlay', async t => {
  // Underlay pings are no containers' packets.
  const filter = `udp port 51820 or net 10.5.0.0/16`
  const tcpdump = ['tcpdump', '-ni', 'eth0', '-c', '50', '-A', filter]
  const state = { isOver: false }
  const capture = one
    .run(['timeout', '50', ...tcpdump])
    .finally(() => (state.isOver = true))
  const text = 'a secret of containers'
  const pattern = Buffer.from(text).toString('hex').slice(0, 32)
  // It may take a while until it listens.
  const ping = ['ping', '-c', '20', '-i', '0.01', '-p', pattern, '-s', '200']
  while (!state.isOver)
    await one.container.run([...ping, two.container.address]).catch(() => '')
  const seen = await capture
  t.match(seen, `${one.address}.51820 > ${two.address}.51820`)
  t.notMatch(seen, text.slice(0, 16))
})

t.test('peers tell when each side has agreed on keys last', async t => {
  await waitFor('all are up', async () => {
    const { exitCode, stdout } = await flannelctl(one, ['peers'])
    return exitCode === 0 && stdout.match(/ up .* (\d+m)?\d+s ago$/gm)?.length === 2
  })
  t.match((await flannelctl(one, ['peers'])).stdout, /OVERLAY +MTU +LEASE +HANDSHAKE$/m)
})

t.test('a host with another preshared key is told from one that is away', async t => {
  const psk = (await one.run(['wg', 'genpsk'])).trim()
  await three.daemon.kill('SIGINT')
  await lab.etcd.ctl(
    'put',
    '/coreos.com/network/config',
    JSON.stringify({ Network: '10.5.0.0/16', Backend: { Type: 'wireguard', PSK: psk } }),
  )
  await three.daemon.start()
  await waitFor(
    'it is told',
    async () => {
      const { exitCode, stdout } = await flannelctl(three, ['peers'])
      return (
        exitCode === 3 &&
        / silent .* never$/m.test(stdout) &&
        stdout.includes(
          `no handshake with ${one.address}:51820: a firewall drops its UDP port, its record has an old key, or Backend.PSK is not the same on both hosts`,
        )
      )
    },
    60_000,
  )
  const { stdout } = await flannelctl(three, ['peers'])
  t.notMatch(stdout + JSON.stringify(await three.daemon.status()), psk)
})
