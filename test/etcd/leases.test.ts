/** The engine of leases on a real etcd: many hosts at once, and everything that happens to etcd. */
import t, { type Test } from 'tap'
import { PREFIX, RealHost, ctl } from '../helpers/real-hosts.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { openTcpProxy } from '../helpers/tcp-proxy.js'
import { waitFor } from '../helpers/wait-for.js'

const WIDE = '{"Network":"10.5.0.0/16"}'

interface Network {
  readonly etcd: RealEtcd
  readonly hosts: RealHost[]
  add(endpoint?: string): RealHost
  /** Resolves when every host holds a subnet and knows all others. */
  isWhole(why: string): Promise<void>
}

async function openNetwork(t: Test, config = WIDE): Promise<Network> {
  const etcd = await RealEtcd.open()
  t.teardown(() => etcd.close())
  ctl(etcd, 'put', `${PREFIX}/config`, config)
  const hosts: RealHost[] = []
  const add = (endpoint = etcd.endpoint): RealHost => {
    const number = hosts.length + 1
    const parts = { hostId: `host-${number}`, publicIp: `192.0.2.${number}`, config }
    const host = new RealHost(parts, [endpoint])
    hosts.push(host)
    t.teardown(() => host.close())
    return host
  }
  const isWhole = async (why: string): Promise<void> => {
    const all = (): string[] => hosts.map(host => host.subnet ?? '').sort()
    await waitFor(
      why,
      () => {
        const isDone = hosts.every(host => {
          const others = all().filter(subnet => subnet !== host.subnet)
          return host.remotes.join() === others.join() && host.subnet !== undefined
        })
        return isDone && keysOf(etcd).join() === all().join()
      },
      60_000,
    )
  }
  return { etcd, hosts, add, isWhole }
}

/** What etcd says is held, sorted; nothing while it does not answer. */
function keysOf(etcd: RealEtcd): string[] {
  try {
    const keys = ctl(etcd, 'get', '--prefix', '--keys-only', `${PREFIX}/subnets/`)
    return keys
      .split('\n')
      .filter(key => /-\d+$/.test(key))
      .map(key => key.slice(key.lastIndexOf('/') + 1).replace('-', '/'))
      .sort()
  } catch {
    return []
  }
}

function subnetsOf({ hosts }: Network): (string | undefined)[] {
  return hosts.map(({ subnet }) => subnet)
}

t.test('fifty hosts that start at the same instant get a subnet each', async t => {
  const network = await openNetwork(t)

  const begin = performance.now()
  for (let number = 0; number < 50; number++) network.add()
  await network.isWhole('fifty hosts')
  t.comment(`${(performance.now() - begin).toFixed(0)} ms until all knew all`)

  t.equal(new Set(subnetsOf(network)).size, 50)
  t.ok(
    network.hosts.every(({ subnets }) => subnets.length === 1),
    'at the first go',
  )
})

t.test('a range of three serves three, and a fourth when one leaves', async t => {
  const config = '{"Network":"10.5.0.0/24","SubnetLen":26}'
  const network = await openNetwork(t, config)
  for (let number = 0; number < 3; number++) network.add()
  await network.isWhole('three hosts')

  const fourth = network.add()
  await waitFor(
    'it to say so',
    () => fourth.waitsFor === 'out of subnets: none is free, 3 taken',
  )

  const [first] = network.hosts
  const freed = first?.subnet
  first?.lease.release()
  t.equal(await waitFor('a subnet', () => fourth.subnet), freed)
})

t.test('whatever happens to etcd, everybody keeps his subnet', async t => {
  const network = await openNetwork(t)
  const { etcd, hosts } = network
  for (let number = 0; number < 6; number++) network.add()
  await network.isWhole('six hosts')
  const before = subnetsOf(network)
  const stays = (what: string): void => {
    t.strictSame(subnetsOf(network), before, what)
    t.ok(
      hosts.every(({ subnets }) => subnets.length === 1),
      `${what}: no new tenure`,
    )
    t.ok(
      hosts.every(({ failure }) => failure === undefined),
      `${what}: nobody ended`,
    )
  }

  ctl(etcd, 'put', `${PREFIX}/subnets/rubbish`, 'x')
  ctl(etcd, 'put', `${PREFIX}/subnets/10.5.7.0-24`, '{')
  ctl(etcd, 'put', `${PREFIX}/subnets-else/10.5.8.0-24`, '{"PublicIP":"192.0.2.99"}')
  await waitFor('the garbage to be seen', () =>
    hosts.every(({ lease }) => lease.view.table.bad().length === 2),
  )
  t.ok(
    hosts.every(({ remotes }) => remotes.length === 5),
    'garbage changes nothing',
  )
  for (const name of ['rubbish', '10.5.7.0-24'])
    ctl(etcd, 'del', `${PREFIX}/subnets/${name}`)

  const [first = ''] = before
  ctl(etcd, 'del', `${PREFIX}/subnets/${first.replace('/', '-')}`)
  await network.isWhole('the deleted record')
  stays('a deleted record')

  const backup = etcd.backup()
  await etcd.kill()
  await etcd.start()
  await network.isWhole('etcd after kill -9')
  stays('kill -9')

  await etcd.freeze()
  await waitFor(
    'everybody to find that etcd is away',
    () => (hosts.some(({ lease }) => lease.view.reachable) ? undefined : true),
    60_000,
  )
  etcd.thaw()
  await network.isWhole('etcd after a freeze')
  stays('SIGSTOP for longer than every timeout')

  network.add()
  await network.isWhole('a seventh host')
  before.push(hosts.at(-1)?.subnet)
  await etcd.restore(backup)
  await network.isWhole('an etcd restored to before the seventh came')
  stays('an old backup')

  await etcd.wipe()
  await etcd.start()
  await waitFor('somebody to notice', () =>
    hosts.some(({ lease }) => lease.view.table.isOrphan(keyOf(before[1])))
      ? true
      : undefined,
  )
  t.strictSame(keysOf(etcd), [], 'nothing is created without a configuration')
  t.ok(
    hosts.every(({ remotes }) => remotes.length === 6),
    'and nothing forgotten',
  )
  ctl(etcd, 'put', `${PREFIX}/config`, WIDE)
  await network.isWhole('a wiped etcd')
  stays('a wipe')
})

t.test('what happened while a host was cut off reaches it, compacted or not', async t => {
  const network = await openNetwork(t)
  const { etcd } = network
  const proxy = await openTcpProxy(etcd.port)
  t.teardown(() => proxy.close())
  network.add()
  const far = network.add(`http://127.0.0.1:${proxy.port}`)
  await network.isWhole('two hosts')

  proxy.swallowAnswers = true
  proxy.cut()
  for (let number = 0; number < 3; number++) network.add()
  await waitFor('three more', () => keysOf(etcd).length === 5)
  const { header } = JSON.parse(ctl(etcd, 'get', 'x', '-w', 'json')) as {
    header: { revision: number }
  }
  ctl(etcd, 'compact', String(header.revision))
  t.equal(far.remotes.length, 1)
  proxy.swallowAnswers = false
  proxy.cut()

  await network.isWhole('what was missed')
  t.equal(far.remotes.length, 4)
})

function keyOf(subnet: string | undefined): string {
  return `${PREFIX}/subnets/${subnet?.replace('/', '-') ?? ''}`
}
