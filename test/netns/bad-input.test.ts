/**
 * What the operator sees when something is wrong: one line that says what and
 * what to do, and an end with the right exit code or a visible wait for what
 * may come (flannel waits for etcd, the configuration and the subnet file).
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EtcdRegistry } from '../../lib/subnet/etcd-registry.js'
import { Daemon } from '../helpers/daemon.js'
import { inOwnNetwork, ip } from '../helpers/own-network.js'
import { RealEtcd } from '../helpers/real-etcd.js'
import { waitFor } from '../helpers/wait-for.js'

const GOOD = '{"Network":"10.5.0.0/16"}'

/** Nobody may read this program wherever it lies, and may do nothing else. */
const MAY_READ = ['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search']

/** Refused command lines run so many at a time. */
const AT_ONCE = 3

//   eth0 192.0.2.1/24 ─ default via 192.0.2.254      docker0 172.17.0.1/16
await inOwnNetwork(t, import.meta.url, async () => {
  ip('link add eth0 type veth peer name eth0-peer')
  ip('link set eth0-peer up')
  ip('link set eth0 up')
  ip('address add 192.0.2.1/24 dev eth0')
  ip('route add default via 192.0.2.254')
  ip('link add docker0 type bridge')
  ip('address add 172.17.0.1/16 dev docker0')

  const directory = mkdtempSync(join(tmpdir(), 'bi-'))
  const etcd = await RealEtcd.open()
  const registry = new EtcdRegistry({ endpoints: [etcd.endpoint] })
  t.teardown(async () => {
    registry.close()
    await etcd.close()
    rmSync(directory, { recursive: true })
  })

  let prefixes = 0
  /** An etcd prefix of its own, with a configuration if one is given. */
  async function newPrefix(config?: string): Promise<string> {
    const prefix = `/bi-${++prefixes}`
    if (config !== undefined) await store(prefix, config)
    return prefix
  }

  async function store(prefix: string, value: string): Promise<void> {
    await registry.commit([], [{ kind: 'put', key: `${prefix}/config`, value }])
  }

  /** A command line that works once there is a configuration; later flags win. */
  function commandLine(prefix: string, more: readonly string[] = []): string[] {
    return [
      `--etcd-endpoints=${etcd.endpoint}`,
      `--etcd-prefix=${prefix}`,
      `--state-dir=${directory}/s`,
      `--run-dir=${directory}/r`,
      `--subnet-file=${directory}${prefix}.env`,
      ...more,
    ]
  }

  function start(t: Test, args: readonly string[], wrap: readonly string[] = []): Daemon {
    const daemon = new Daemon(args, wrap)
    t.teardown(() => daemon.stop())
    return daemon
  }

  interface Refusal {
    readonly name: string
    readonly config?: string
    readonly args?: readonly string[]
    readonly wrap?: readonly string[]
    readonly exitCode?: number
    readonly says: RegExp
  }

  /** Every case ends by itself; its last line is the only one that is not about progress. */
  async function isRefused(t: Test, refusal: Refusal): Promise<void> {
    const { name, config = GOOD, args, wrap, exitCode = 1, says } = refusal
    const daemon = start(t, commandLine(await newPrefix(config), args), wrap)
    t.equal(await daemon.ended(), exitCode, `${name}: exit code`)
    const [last = '', ...others] = daemon.lines.toReversed()
    t.match(last, says, name)
    t.match(last, exitCode === 2 ? /^flanneld: / : /^FATAL /, `${name}: how it ends`)
    t.strictSame(
      others.filter(line => !line.startsWith('INFO ')),
      [],
      `${name}: one line`,
    )
  }

  async function areRefused(t: Test, cases: readonly Refusal[]): Promise<void> {
    for (let index = 0; index < cases.length; index += AT_ONCE) {
      const some = cases.slice(index, index + AT_ONCE)
      await Promise.all(some.map(each => isRefused(t, each)))
    }
  }

  function network(text: string, backend: object = { Type: 'udp' }): string {
    return JSON.stringify({ Network: text, Backend: backend })
  }

  t.test('a command line that cannot be meant is refused with exit code 2', async t => {
    await areRefused(t, [
      {
        name: 'an unknown flag',
        args: ['--etcd-endpoint=http://127.0.0.1:2379'],
        exitCode: 2,
        says: /^flanneld: unknown flag --etcd-endpoint; did you mean --etcd-endpoints\?$/,
      },
      {
        name: 'the Kubernetes manager',
        args: ['-kube-subnet-mgr'],
        exitCode: 2,
        says: /^flanneld: --kube-subnet-mgr: the Kubernetes subnet manager is not implemented; leases come from etcd$/,
      },
      {
        name: 'a port that is none',
        args: ['--healthz-port=70000'],
        exitCode: 2,
        says: /^flanneld: --healthz-port is 70000; it takes a port from 0 to 65535$/,
      },
    ])
  })

  t.test('a host that cannot run the daemon is told before anything is made', async t => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.teardown(() => taken.close())
    const { port } = taken.address() as { port: number }
    writeFileSync(join(directory, 'file'), '')
    const noCapability =
      /flanneld may not change the network of this host; run it as root or with CAP_NET_ADMIN/
    await areRefused(t, [
      {
        name: 'nobody',
        wrap: [
          'setpriv',
          '--reuid=65534',
          '--regid=65534',
          '--clear-groups',
          ...MAY_READ,
          '--',
        ],
        says: noCapability,
      },
      {
        name: 'root without the capability',
        wrap: ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin', '--'],
        says: noCapability,
      },
      {
        name: 'a health port in use',
        args: ['--healthz-ip=127.0.0.1', `--healthz-port=${port}`],
        says: /--healthz-port: listen EADDRINUSE: address already in use 127\.0\.0\.1:\d+; choose another --healthz-port/,
      },
      {
        name: 'a run directory that cannot be made',
        args: [`--run-dir=${directory}/file/run`],
        says: /cannot make the directory \S+\/file\/run\/bi-\d+: ENOTDIR.*--run-dir/,
      },
      {
        name: 'a renew margin of no minutes',
        args: ['--subnet-lease-renew-margin=0'],
        says: /--subnet-lease-renew-margin is 0; it must be between 1 and 1439 minutes/,
      },
      {
        name: 'an interface that is not there',
        args: ['--iface=eth7'],
        says: /--iface=eth7; this host has lo, eth0-peer, eth0, docker0 {2}code=ERR_UNDERLAY$/,
      },
    ])
  })

  t.test('a Network that this host uses already is refused, both named', async t => {
    const overlap = (what: string): RegExp =>
      new RegExp(
        `${what}.*: choose a Network that nothing on any host uses.*code=ERR_NETWORK_OVERLAP$`,
      )
    await areRefused(t, [
      {
        name: 'the underlay',
        config: network('192.0.0.0/16'),
        says: overlap(
          'network 192\\.0\\.0\\.0/16 overlaps interface eth0 \\(192\\.0\\.2\\.1/24\\)',
        ),
      },
      {
        name: 'the default gateway',
        config: network('192.0.2.192/26'),
        says: overlap(
          'network 192\\.0\\.2\\.192/26 contains the default gateway 192\\.0\\.2\\.254 \\(eth0\\)',
        ),
      },
      {
        name: 'docker0',
        config: network('172.16.0.0/12'),
        says: overlap(
          'network 172\\.16\\.0\\.0/12 overlaps bridge docker0 \\(172\\.17\\.0\\.1/16\\)',
        ),
      },
      {
        name: 'etcd',
        config: network('10.44.0.0/16'),
        args: [`--etcd-endpoints=${etcd.endpoint},http://10.44.0.5:2379`],
        says: overlap('network 10\\.44\\.0\\.0/16 contains etcd at 10\\.44\\.0\\.5'),
      },
    ])
  })

  t.test('a configuration that this build cannot serve is refused by name', async t => {
    await areRefused(t, [
      {
        name: 'a type of flannel',
        config: network('10.5.0.0/16', { Type: 'ipsec' }),
        says: /backend type ipsec is not supported by this build; set Backend\.Type to wireguard, which encrypts too/,
      },
      {
        name: 'a type of nobody',
        config: network('10.5.0.0/16', { Type: 'gre' }),
        says: /unknown backend type: gre; set Backend\.Type to udp, vxlan, host-gw, wireguard, ipip, alloc or extension/,
      },
    ])
  })

  t.test('a port or device that cannot be had is told with what to do', async t => {
    const socket = createSocket('udp4').bind(18_285, '192.0.2.1')
    await once(socket, 'listening')
    t.teardown(() => socket.close())
    const hideTun = ['unshare', '--mount', '--', 'sh', '-c']
    await areRefused(t, [
      {
        name: 'the UDP port is in use',
        config: network('10.5.0.0/16', { Type: 'udp', Port: 18_285 }),
        says: /cannot listen on UDP 192\.0\.2\.1:18285: bind a UDP socket: address already in use; .* \(ss -ulpn shows which\): stop it, or set another Backend\.Port/,
      },
      {
        name: 'there is no /dev/net/tun',
        config: network('10.5.0.0/16', { Type: 'udp', Port: 18_286 }),
        wrap: [...hideTun, 'mount -t tmpfs none /dev/net && exec "$@"', 'sh'],
        says: /open \/dev\/net\/tun: no such file or directory; the udp backend needs the tun module: modprobe tun/,
      },
    ])
  })

  t.test(
    'a missing or unusable configuration is waited for, and the next one read',
    async t => {
      const prefix = await newPrefix()
      const daemon = start(t, commandLine(prefix))

      const first = await daemon.says(/waiting for the network configuration/)
      t.match(
        first,
        /^WARN .*etcd has no key \/bi-\d+\/config; store one: flannelctl config set/,
      )
      const steps: [config: string, says: RegExp][] = [
        ['{"Network":', /network configuration: not JSON: /],
        ['[]', /network configuration: must be a JSON object/],
        ['{"Network":"10.5.0.0/33"}', /Network is .*10\.5\.0\.0\/33.* is not an/],
        [
          '{"Network":"10.5.0.0/29"}',
          /network is too small\. Minimum useful network prefix is \/28/,
        ],
        [
          '{"Network":"10.5.0.0/16","SubnetMin":"10.9.1.0"}',
          /SubnetMin is not in the range of the Network/,
        ],
      ]
      for (const [config, says] of steps) {
        await store(prefix, config)
        t.match(await daemon.says(says), /^WARN {2}waiting for the network configuration/)
      }
      t.ok(daemon.isRunning)

      await store(prefix, GOOD)
      await daemon.says(/subnet file written/)
      t.match(
        readFileSync(`${directory}${prefix}.env`, 'utf8'),
        'FLANNEL_NETWORK=10.5.0.0/16',
      )
      t.equal(await daemon.stop(), 0)
    },
  )

  t.test('an interface that is not there yet is waited for', async t => {
    const config = network('10.5.0.0/16', { Type: 'alloc' })
    const late = ['--iface=late0', '--iface-timeout=60']
    const daemon = start(t, commandLine(await newPrefix(config), late))
    t.match(
      await daemon.says(/waiting for the interface/),
      /^WARN {2}waiting for the interface to other hosts {2}reason="Failed to find interface.*--iface=late0/,
    )
    t.ok(daemon.isRunning)
    ip('link add late0 type veth peer name late1')
    ip('address add 198.51.100.1/24 dev late0')
    ip('link set late0 up')
    await daemon.says(/subnet file written/)
    t.equal(await daemon.stop(), 0)

    const brief = ['--iface=late7', '--iface-timeout=1']
    const other = start(t, commandLine(await newPrefix(config), brief))
    t.equal(await other.ended(), 1, 'not for ever')
  })

  t.test('an etcd that is not there is waited for', async t => {
    const away = 'http://127.0.0.1:9'
    const daemon = start(t, commandLine('/bi-away', [`--etcd-endpoints=${away}`]))
    t.match(
      await daemon.says(/waiting/),
      /^WARN {2}waiting for the network configuration {2}reason="etcd at http:\/\/127\.0\.0\.1:9 is not available: /,
    )
    t.ok(daemon.isRunning)
    t.equal(await daemon.stop(), 0)
  })

  t.test('whoever waits for an etcd that does not answer can be stopped', async t => {
    // Packets to this address go out, and nothing comes back.
    const silent = '--etcd-endpoints=http://192.0.2.77:2379'
    const daemon = start(t, commandLine('/bi-silent', [silent]))
    ip('neigh replace 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0')
    await daemon.says(/waiting/)

    const begin = performance.now()
    t.equal(await daemon.stop(), 0)
    const tookMs = performance.now() - begin
    t.ok(tookMs < 10_000, `not held up by a connection (${tookMs.toFixed(0)} ms)`)
  })

  t.test(
    'a subnet file that cannot be written is told, and written once it can be',
    async t => {
      const blocked = join(directory, 'blocked')
      writeFileSync(blocked, 'a file where a directory should be')
      const config = network('10.5.0.0/16', { Type: 'udp', Port: 18_287 })
      const args = [`--subnet-file=${blocked}/subnet.env`]
      const daemon = start(t, commandLine(await newPrefix(config), args))

      t.match(
        await daemon.says(/cannot be told/),
        /^ERROR container runtimes cannot be told of the subnet {2}reason="cannot write \S+\/subnet\.env: .*; make its directory writable or set --subnet-file"$/,
      )
      t.ok(daemon.isRunning)
      rmSync(blocked)
      mkdirSync(blocked)
      await daemon.says(/subnet file written/)
      const file = await waitFor('the file', () =>
        readFileSync(`${blocked}/subnet.env`, 'utf8'),
      )
      t.match(file, /FLANNEL_MTU=1472/)
      t.equal(await daemon.stop(), 0)
    },
  )

  t.test('a second daemon of one prefix is refused, and the first goes on', async t => {
    const prefix = await newPrefix()
    const first = start(t, commandLine(prefix))
    await first.says(/waiting/)

    const second = start(t, commandLine(`${prefix}/`))
    t.equal(await second.ended(), 1)
    t.strictSame(second.lines, [
      `FATAL another flanneld with --etcd-prefix ${prefix} runs on this host; give this one a prefix or a --run-dir of its own`,
    ])
    t.ok(first.isRunning)
  })

  t.test('the subnet file of another daemon is not written over', async t => {
    const [one, other] = [await newPrefix(), await newPrefix()]
    const first = start(t, commandLine(one))
    await first.says(/waiting/)

    const file = `--subnet-file=${directory}/./${one.slice(1)}.env`
    const second = start(t, commandLine(other, [file]))
    t.equal(await second.ended(), 1)
    t.match(second.lines.at(-1), /another flanneld on this host writes \S+\.env; give/)
  })

  t.test('everybody may read the subnet file, and nobody the rest', async t => {
    const config = network('10.5.0.0/16', { Type: 'alloc' })
    const places = ['--state-dir', '--run-dir'].map(
      flag => `${flag}=${directory}/m${flag}`,
    )
    const file = `${directory}/m--run-dir/subnet.env`
    const args = commandLine(await newPrefix(config), [
      ...places,
      `--subnet-file=${file}`,
    ])
    const daemon = start(t, args, ['sh', '-c', 'umask 077; exec "$0" "$@"'])
    await daemon.says(/subnet file written/)

    const mode = (path: string): number => statSync(join(directory, path)).mode & 0o777
    t.equal(mode('m--run-dir'), 0o755)
    t.equal(mode('m--run-dir/subnet.env'), 0o644)
    const [scope = ''] = readdirSync(join(directory, 'm--state-dir'))
    t.equal(mode(`m--state-dir/${scope}`), 0o700)
    t.equal(mode(`m--run-dir/${scope}`), 0o700)
    t.equal(mode(`m--run-dir/${scope}/status.sock`), 0o600)
  })
})
