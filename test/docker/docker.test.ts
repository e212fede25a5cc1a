import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Lab } from '../../cmd/flannelctl/lab/lab.js'
import type { LabHost } from '../../cmd/flannelctl/lab/host.js'
import { run } from '../../lib/linux/run.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { DockerEngine } from './engine.js'
import { waitFor } from '../helpers/wait-for.js'

/**
 * Two hosts of the lab, each with a real Docker engine that was told of its
 * subnet by flanneld alone.
 *
 *   c1 ─ docker0 ─ dk-host1 ═ flannel0 ~~ UDP ~~ flannel0 ═ dk-host2 ─ docker0 ─ c2
 */

const FLANNELCTL = fileURLToPath(new URL('../../cmd/flannelctl.js', import.meta.url))
const IMAGE = 'busybox:test'
const MEGABYTES = 32
const ZONE = 'containers.test'

/** What a docker.service with our drop-in would pass to dockerd. */
async function dockerOptions(
  host: LabHost,
  subnetFile: string,
  directory: string,
): Promise<string[]> {
  const file = join(directory, 'docker.env')
  await host.run([
    process.execPath,
    FLANNELCTL,
    'docker-opts',
    '--engine=auto',
    ...['-c', '-f', subnetFile, '-d', file],
  ])
  const [, options = ''] = /^DOCKER_OPTS="(.*)"$/m.exec(readFileSync(file, 'utf8')) ?? []
  return options.trim().split(/\s+/)
}

t.test('containers of two Docker engines reach each other', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'flanneld-docker-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true, force: true })
  })
  const lab = await Lab.make({ name: 'dk', hosts: 2, runDir: join(directory, 'labs') })
  t.teardown(() => lab.close())
  await lab.startEtcd()

  const engines = await Promise.all(
    lab.hosts.map(async host => {
      const place = join(directory, host.name)
      await run('mkdir', ['-p', place])
      // As a host boots: Docker turns it on, and then drops what it does not know.
      await host.run(['sh', '-c', 'echo 0 > /proc/sys/net/ipv4/ip_forward'])
      // flanneld masquerades what leaves the overlay, so Docker must not.
      const names = [`--names-zone=${ZONE}`, `--docker-socket=${join(place, 'sock')}`]
      const daemon = host.openDaemon({ flags: ['--ip-masq', ...names] })
      await daemon.start()
      const options = await dockerOptions(host, daemon.subnetFile, place)
      t.match(options.join(' '), /--bip=10\.5\.\d+\.1\/24 --ip-masq=false --mtu=1472/)
      return await DockerEngine.start(host.namespace, place, options)
    }),
  )
  t.teardown(async () => {
    await Promise.all(engines.map(engine => engine.close()))
  })

  const addresses = await Promise.all(
    engines.map(async engine => {
      await engine.importBusybox(IMAGE)
      await engine.docker('run', '-d', '--name', 'box', IMAGE, '/bin/sleep', '1000')
      const format = '{{.NetworkSettings.IPAddress}}'
      return await engine.docker('inspect', '--format', format, 'box')
    }),
  )
  const [first, second] = engines as [DockerEngine, DockerEngine]
  const [address1 = '', address2 = ''] = addresses

  await t.test('names of containers are in etcd as CoreDNS reads them', async t => {
    const list = async (name: string): Promise<string[]> => {
      const text = await lab.etcd.ctl(
        'get',
        '--prefix',
        `/skydns/test/containers/${name}/`,
      )
      return text
        .split('\n')
        .filter(line => line.startsWith('{'))
        .sort()
    }
    const values = [address1, address2].map(host => JSON.stringify({ host, ttl: 60 }))
    await waitFor('both engines have told', async () => (await list('box')).length === 2)
    t.same(await list('box'), values.sort(), 'a value for each host that has one')
    t.equal((await list('hosts')).length, 2, 'and one for each host')
    const reverse = address1.split('.').join('/')
    t.match(
      await lab.etcd.ctl('get', `/skydns/arpa/in-addr/${reverse}`),
      `{"host":"box.${ZONE}.","ttl":60}`,
    )

    await first.docker('run', '-d', '--name', 'My_Web', IMAGE, '/bin/sleep', '1000')
    await waitFor('one that starts', async () => (await list('my-web')).length === 1)
    await first.docker('rename', 'My_Web', 'shop')
    await waitFor('one that is renamed', async () => (await list('shop')).length === 1)
    t.same(await list('my-web'), [])
    await first.docker('rm', '--force', 'shop')
    await waitFor('one that is gone', async () => (await list('shop')).length === 0)

    const lease = await lab.etcd.ctl('lease', 'list')
    t.ok(lease.trim().split('\n').length >= 5, 'names have leases of their own')
  })

  await t.test('Docker forwards nothing by itself', async t => {
    const rules = await lab.host(1).run(['iptables', '-S', 'FORWARD'])

    t.match(rules, /^-P FORWARD DROP/m, 'the policy that Docker sets')
    t.match(rules, /FLANNEL-FWD/, 'and the rules of ours that it needs')
  })

  await t.test('the container has the MTU of the overlay', async t => {
    t.match(
      await first.docker('exec', 'box', '/bin/ip', 'link', 'show', 'eth0'),
      /mtu 1472/,
    )
  })

  await t.test('they ping each other, with full packets too', async t => {
    const ping = async (from: DockerEngine, to: string, size: number): Promise<string> =>
      await from.docker('exec', 'box', '/bin/ping', '-c3', `-s${size}`, '-W20', to)

    t.match(await ping(first, address2, 56), / 0% packet loss/)
    t.match(await ping(second, address1, 56), / 0% packet loss/)
    t.match(await ping(first, address2, 1472 - 28), / 0% packet loss/)
  })

  await t.test('a transfer arrives whole', async t => {
    const serve = `dd if=/dev/urandom of=/file bs=1M count=${MEGABYTES} 2>/dev/null; exec httpd -f -p 8080 -h /`
    await first.docker('exec', '-d', 'box', '/bin/sh', '-c', serve)
    const fetch = `until wget -q -O /got http://${address1}:8080/file; do sleep 1; done; cat /got`
    const started = performance.now()
    await second.docker('exec', 'box', '/bin/sh', '-c', `${fetch} >/dev/null`)
    t.comment(`${MEGABYTES} MiB in ${Math.round(performance.now() - started)} ms`)

    const sum = async (engine: DockerEngine, file: string): Promise<string> =>
      await engine.docker('exec', 'box', '/bin/busybox', 'sha256sum', file)
    const [sent] = (await sum(first, '/file')).split(' ')
    const [got] = (await sum(second, '/got')).split(' ')

    t.equal(got, sent)
  })

  await t.test('the sender is the container itself, not its host', async t => {
    const seen = lab
      .host(2)
      .run(['timeout', '50', 'tcpdump', '-c1', '-nn', '-i', 'docker0', 'icmp[0]==8'])
    // Pings go on until tcpdump has seen one, and end with the container.
    await first.docker('exec', '-d', 'box', '/bin/ping', address2)

    t.match(await seen, new RegExp(`IP ${address1.replaceAll('.', '\\.')} > `))
  })

  await t.test('so they do in nftables mode, beside the rules of the engine', async t => {
    const config = JSON.stringify({ Network: lab.network, EnableNFTables: true })
    await lab.etcd.ctl('put', '/coreos.com/network/config', config)
    for (const host of lab.hosts)
      t.match(await flannelctl(host, ['config', 'apply']), { exitCode: 0 })

    const rules = async (host: LabHost): Promise<string> =>
      await host.run(['iptables-save'])
    for (const host of lab.hosts) {
      await waitFor('the mode is another', async () => {
        const text = await rules(host)
        return !text.includes('FLANNEL-POSTRTG')
      })
      t.match(await rules(host), /^:FORWARD DROP /m, "the engine's policy stands")
      t.match(await rules(host), /^-A DOCKER-USER .* -j FLANNEL-FWD$/m)
      t.match(await host.run(['nft', 'list', 'tables']), /^table ip flannel-ipv4$/m)
    }
    for (const [from, to] of [
      [first, address2],
      [second, address1],
    ] as const)
      t.match(
        await from.docker('exec', 'box', '/bin/ping', '-c3', '-W20', to),
        / 0% packet loss/,
      )
  })
})
