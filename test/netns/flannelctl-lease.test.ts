/**
 * What an operator does to the subnets of a running network: reserve, move,
 * revoke, release. Two hosts with daemons, a third that comes later, and a real
 * etcd. In this order on one network.
 */
import t from 'tap'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { isRunning, openTestLab, reaches, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const lab = await openTestLab(t, { name: 't-lease', hosts: 2 })
const [one, two] = [lab.host(1), lab.host(2)]

interface ShownLease {
  readonly subnet: string
  readonly hostId: string | null
  readonly kind: string
}

async function leases(): Promise<readonly ShownLease[]> {
  const { stdout } = await flannelctl(one, ['leases', '--json'])
  return (JSON.parse(stdout) as { leases: ShownLease[] }).leases
}

/** A subnet that nobody has, counted from the end of the range. */
async function freeSubnet(): Promise<string> {
  const taken = new Set((await leases()).map(({ subnet }) => subnet))
  const all = Array.from({ length: 255 }, (_, index) => `10.5.${255 - index}.0/24`)
  return all.find(subnet => !taken.has(subnet)) ?? ''
}

/** What a restart of Docker does when the subnet has changed. */
async function reconnect(host: LabHost): Promise<void> {
  await host.run(['ip', 'link', 'delete', 'docker0-p'])
  await host.run(['ip', 'link', 'delete', 'docker0'])
  await host.makeContainer()
}

t.test('a subnet is reserved for a host that is to come', async t => {
  const subnet = await freeSubnet()

  t.match(await flannelctl(one, ['lease', 'reserve', subnet, '--host', 'db-1']), {
    exitCode: 0,
    stdout: `${subnet} is reserved\n`,
  })
  t.match(
    (await leases()).find(lease => lease.subnet === subnet),
    { hostId: 'db-1', kind: 'reservation' },
  )
  await waitFor(
    'nobody complains of it',
    async () => (await flannelctl(two, ['status'])).exitCode === 0,
  )

  const three = await lab.addHost(['--node-id=db-1'])
  t.equal(await subnetOf(three.daemon), subnet)
  await waitFor('packets flow', () => reaches(one, three))

  t.match(await flannelctl(one, ['lease', 'unreserve', subnet]), { exitCode: 0 })
  await waitFor('the host goes on with a lease', async () =>
    (await leases()).some(lease => lease.subnet === subnet && lease.kind === 'lease'),
  )
  await waitFor('packets flow', () => reaches(one, three))
})

t.test('what cannot be reserved is refused, with the reason', async t => {
  const refusals: readonly [args: string[], stderr: RegExp, exitCode: number][] = [
    [['10.9.9.0/24', '--host', 'x'], /is no subnet that a host could hold/, 1],
    [['10.5.0.0/24', '--host', 'x'], /is no subnet that a host could hold/, 1],
    [[await freeSubnet(), '--host', 'bad/id'], /a host id is up to 64 letters/, 2],
    [[await freeSubnet(), '--for-ip', 'x'], /--for-ip: "x" is not an IP address/, 2],
    [[await freeSubnet()], /say for whom, with --host or --for-ip/, 2],
    [['x'], /"x" is not an address range/, 2],
  ]
  for (const [args, stderr, exitCode] of refusals) {
    const result = await flannelctl(one, ['lease', 'reserve', ...args])
    t.match(result, { stderr, exitCode }, args.join(' '))
  }
})

t.test('a host is ordered to move, and containers find it there', async t => {
  const [before, to] = [await subnetOf(two.daemon), await freeSubnet()]

  const moved = await flannelctl(one, ['lease', 'move', before, to])

  t.match(moved, { exitCode: 0, stdout: new RegExp(`it holds ${to} now`) })
  await two.daemon.ready()
  t.equal(await subnetOf(two.daemon), to)
  await reconnect(two)
  await waitFor('packets flow', () => reaches(one, two))
  await two.daemon.kill('SIGTERM')
  await two.daemon.start()
  t.equal(await subnetOf(two.daemon), to, 'once is enough')

  const taken = await flannelctl(one, ['lease', 'move', to, await subnetOf(one.daemon)])
  t.match(taken, { exitCode: 1, stdout: /is taken/ })
  t.equal(await subnetOf(two.daemon), to)
})

t.test('a host that is revoked holds nothing until it may again', async t => {
  const subnet = await subnetOf(two.daemon)
  const { lease } = await two.daemon.status()
  const hostId = lease?.record.HostID ?? ''

  t.match(await flannelctl(one, ['lease', 'revoke', '192.168.77.12']), { exitCode: 0 })
  t.notOk((await leases()).some(other => other.hostId === hostId))
  await waitFor('it says why', async () => {
    const { exitCode, stdout } = await flannelctl(two, ['status'])
    const why = 'an order bars this host from the network: flannelctl lease allow'
    return exitCode === 3 && stdout.includes(why)
  })

  t.match(await flannelctl(one, ['lease', 'allow', hostId]), { exitCode: 0 })
  await waitFor('it holds its subnet again', async () => {
    const { lease } = await two.daemon.status()
    return lease?.subnet === subnet
  })
  await two.daemon.ready()
  await reconnect(two)
  await waitFor('packets flow', () => reaches(one, two))
})

t.test('the network says how full it is', async t => {
  const { exitCode, stdout } = await flannelctl(one, ['network', 'usage'])

  t.equal(exitCode, 0)
  t.match(stdout, /^10\.5\.0\.0\/16 +255 +3 +0 +252 +about \d+ days$/m)
})

t.test('a host that releases its subnet ends, and its history tells', async t => {
  const subnet = await subnetOf(two.daemon)
  const { pid } = two.daemon

  t.match(await flannelctl(two, ['lease', 'release']), { exitCode: 0 })
  await waitFor('the daemon has ended', () => !isRunning(pid))
  t.notOk((await leases()).some(lease => lease.subnet === subnet))

  const { stdout } = await flannelctl(two, ['lease', 'history'])
  t.match(stdout, new RegExp(`^\\S+Z  holding  subnet=${subnet}$`, 'm'))
  t.match(stdout, /stopped {2}subnet=\S+ {2}reason=the subnet is released on request/)
})
