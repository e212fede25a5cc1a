/**
 * Leases of IPv4, IPv6 and both with real daemons, which make no packets travel
 * (backend alloc), and the hook for another subnet. Hosts share one namespace.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { formatOrder, orderKey } from '../../lib/subnet/orders.js'
import { Daemon } from '../helpers/daemon.js'
import { inOwnNetwork, ip } from '../helpers/own-network.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { waitFor } from '../helpers/wait-for.js'

await inOwnNetwork(t, import.meta.url, async () => {
  ip('link add eth0 type veth peer name eth0-peer')
  ip('link set eth0-peer up')
  ip('link set eth0 up')
  ip('address add 192.0.2.1/24 dev eth0')
  ip('address add 2001:db8::1/64 dev eth0 nodad')
  ip('route add default via 192.0.2.254')
  ip('-6 route add default via 2001:db8::ff')

  const directory = mkdtempSync(join(tmpdir(), 'fam-'))
  const etcd = await RealEtcd.open()
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  t.teardown(async () => {
    registry.close()
    await etcd.close()
    rmSync(directory, { recursive: true })
  })

  interface Host {
    readonly daemon: Daemon
    readonly environment: ReadonlyMap<string, string>
  }

  async function start(
    t: Test,
    prefix: string,
    id: string,
    more: readonly string[] = [],
  ): Promise<Host> {
    const file = `${directory}${prefix}-${id}.env`
    const daemon = new Daemon([
      `--etcd-endpoints=${etcd.endpoint}`,
      `--etcd-prefix=${prefix}`,
      `--state-dir=${directory}/${id}`,
      `--run-dir=${directory}/${id}`,
      `--subnet-file=${file}`,
      `--node-id=${id}`,
      ...more,
    ])
    t.teardown(() => daemon.stop())
    await daemon.says(/subnet file written/)
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
    return { daemon, environment: new Map(lines.map(line => splitOnce(line))) }
  }

  async function store(prefix: string, config: object): Promise<void> {
    const value = JSON.stringify({ ...config, Backend: { Type: 'alloc' } })
    await registry.commit([], [{ kind: 'put', key: `${prefix}/config`, value }])
  }

  async function keys(prefix: string): Promise<string[]> {
    const { entries } = await registry.list(`${prefix}/`)
    return entries.map(({ key }) => key.slice(prefix.length + 1)).sort()
  }

  t.test('with both families, keys and files are as flannel has them', async t => {
    const prefix = '/dual'
    await store(prefix, {
      EnableIPv6: true,
      Network: '10.12.0.0/16',
      IPv6Network: 'fd00:12::/48',
    })

    const one = await start(t, prefix, 'one')

    const v4 = one.environment.get('FLANNEL_SUBNET') ?? ''
    const v6 = one.environment.get('FLANNEL_IPV6_SUBNET') ?? ''
    t.match(v4, /^10\.12\.\d+\.1\/24$/)
    t.match(v6, /^fd00:12:0:[0-9a-f]+::1\/64$/)
    t.equal(one.environment.get('FLANNEL_IPV6_NETWORK'), 'fd00:12::/48')
    const [half4, half6] = [v4.replace('.1/', '.0-'), v6.replace('::1/', '::-')]
    t.strictSame(await keys(prefix), [
      `claims/v4/${half4}`,
      `claims/v6/${half6}`,
      'config',
      `last-holders/${half4}`,
      `subnets/${half4}&${half6}`,
    ])
    const { entry } = await registry.get(`${prefix}/subnets/${half4}&${half6}`)
    t.equal(
      entry?.value,
      '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","HostID":"one"}',
    )
  })

  t.test('a network of IPv6 alone', async t => {
    const prefix = '/six'
    await store(prefix, {
      EnableIPv4: false,
      EnableIPv6: true,
      IPv6Network: 'fd00:6::/48',
    })

    const { environment } = await start(t, prefix, 'six')

    t.equal(environment.has('FLANNEL_SUBNET'), false)
    const v6 = environment.get('FLANNEL_IPV6_SUBNET') ?? ''
    t.match(v6, /^fd00:6:0:[0-9a-f]+::1\/64$/)
    const name = `subnets/0.0.0.0-0&${v6.replace('::1/', '::-')}`
    t.ok((await keys(prefix)).includes(name))
  })

  t.test('the hook is run with both subnets when a host has got another', async t => {
    const prefix = '/hook'
    await store(prefix, { Network: '10.13.0.0/16' })
    const [script, output] = [join(directory, 'the hook.sh'), join(directory, 'ran')]
    writeFileSync(
      script,
      `printf '%s %s %s' "$FLANNELD_FORMER_SUBNET" "$FLANNELD_SUBNET" "$1" > ${output}\n`,
    )
    const flag = `--on-subnet-change=sh '${script}' "a b"`
    const { daemon, environment } = await start(t, prefix, 'hooked', [flag])
    const before = (environment.get('FLANNEL_SUBNET') ?? '').replace('.1/', '.0/')
    t.equal(existsSync(output), false, 'not at the first start')

    const value = formatOrder({ kind: 'move', state: 'open' })
    const key = orderKey(prefix, 'hooked')
    await registry.commit([], [{ kind: 'put', key, value }])

    await daemon.says(/ran the hook/)
    const text = await waitFor('its output', () => readFileSync(output, 'utf8'))
    const [former, now, argument] = splitThree(text)
    t.equal(former, before)
    t.match(now, /^10\.13\.\d+\.0\/24$/)
    t.not(now, before)
    t.equal(argument, 'a b')
  })
})

function splitOnce(line: string): [string, string] {
  const at = line.indexOf('=')
  return [line.slice(0, at), line.slice(at + 1)]
}

function splitThree(text: string): [string, string, string] {
  const [, first = '', second = '', third = ''] = /^(\S+) (\S+) (.*)$/.exec(text) ?? []
  return [first, second, third]
}
