/** Ways that are broken in one place each: why names that and nothing else, and its command mends it. */
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import type { LabNode } from '../../cmd/flannelctl/lab/host.js'
import { ipInside } from '../../cmd/flannelctl/lab/namespaces.js'
import { hostAddress, underlayNamespace } from '../../cmd/flannelctl/lab/topology.js'
import { flannelctl } from '../helpers/flannelctl.js'
import { type Answer, type Case, diagnose, expectCause } from './diagnosis.js'
import { openTestLab, pathOf, reaches, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const NAME = 't-why'
const PORT = 765

/** Longer than a host wants to be left alone after a question. */
const PAUSE_MS = 1500

/** Four looks that find how long a packet may be, and as many that find nothing. */
const MENDS_MS = 120_000

const lab = await openTestLab(t, {
  name: NAME,
  hosts: 2,
  flags: [`--peer-port=${PORT}`],
})
const [here, there] = [lab.host(1), lab.host(2)]
const a = here.container.address
const b = there.container.address

const why = (from = a, to = b): Promise<Answer> => diagnose(here, 'why', from, to)

/** What the operator does whom why tells to. */
async function mend(command: string): Promise<void> {
  const [, what = command, where] =
    /^(.*), on (?:the host of )?(\S+)$/.exec(command) ?? []
  const host = where === undefined ? here : there
  if (/^systemctl (re)?start flanneld$/.test(what)) await host.daemon.start()
  else await host.run(['sh', '-c', what])
}

function breaks(name: string, broken: Case): Promise<unknown> {
  return t.test(name, (t: Test) =>
    expectCause(t, broken, {
      ask: why,
      mend,
      flows: () => reaches(here, there),
    }),
  )
}

const sh = (node: LabNode, command: string) => (): Promise<string> =>
  node.run(['sh', '-c', command])

await t.test('a way that is well', async t => {
  await waitFor('the other host listens', async () => {
    const { stderr } = await flannelctl(here, ['why', a, b])
    return stderr === ''
  })
  for (const [from, to] of [
    [a, b],
    [b, a],
    [here.address, there.address],
    [a, a],
  ] as const) {
    await waitFor(`${from} to ${to} is free to ask`, async () => {
      const said = await flannelctl(here, ['why', from, to])
      return said.exitCode === 0 && said.stdout === '' && said.stderr === ''
    })
    t.pass(`nothing is said of ${from} to ${to}`)
  }
  await waitFor('every step of both hosts is told of', async () => {
    const { stdout } = await flannelctl(here, ['why', '--verbose', a, b])
    return /^route: ok$/m.test(stdout) && /^route on 192\.168\.77\.12: ok$/m.test(stdout)
  })
})

await t.test('who may ask', async t => {
  const subnet = (await subnetOf(there.daemon)).replace('.0/24', '')
  const script = `
    const { get } = await import('node:http')
    const [url, localPort] = process.argv.slice(1)
    get(url, { agent: false, localPort: Number(localPort) }, response => {
      response.setEncoding('utf8').on('data', text => process.stdout.write(response.statusCode + ' ' + text))
    }).on('error', error => process.stdout.write(error.code))`
  let asked = 0
  const ask = (
    node: LabNode,
    path: string,
    port = 900 + (asked++ % 100),
  ): Promise<string> =>
    node.run([
      process.execPath,
      '--input-type=module',
      '--eval',
      script,
      '--',
      `http://${subnet}.0:${PORT}${path}`,
      String(port),
    ])
  const question = `/why?from=${b}&to=${a}`
  t.equal(await ask(here.container, question), 'ECONNRESET', 'no container')
  t.equal(await ask(there, question), 'ECONNRESET', 'nor the host itself')
  t.equal(await ask(here, question, 2000), 'ECONNRESET', 'nor a user who is not root')
  t.match(await ask(here, '/status'), /^404/)
  t.match(await ask(here, `/why?from=${a}&to=${b}`), /^400 from has/)
  t.match(await ask(here, `/why?from=${b}&to=192.0.2.1`), /^400 to has/)
  t.match(await ask(here, `/why?from=;reboot&to=${a}`), /^400 from has/)
  // Of two that come at a time; one of them may be late.
  await waitFor('one question at a time', async () => {
    await delay(PAUSE_MS)
    const both = await Promise.all([ask(here, question), ask(here, question)])
    return both.some(answer => answer.startsWith('503 it is asked too often'))
  })
})

await breaks('a route leads elsewhere', {
  check: 'route',
  what: /packets to 10\.5\.\d+\.2 leave by eth0 instead of flannel0/,
  spoil: () => here.run(['ip', 'route', 'add', b, 'dev', 'eth0']),
})

await breaks('a route is missing, and nobody puts it back', {
  check: 'daemon',
  what: /flanneld does not run/,
  spoil: async () => {
    await here.daemon.kill('SIGKILL')
    await sh(here, 'ip route flush 10.5.0.0/16')()
  },
})

await breaks('flanneld of the other host is dead', {
  check: 'reach',
  what: /nobody listens on UDP 8285 of 192\.168\.77\.12: flanneld there does not run/,
  spoil: async () => {
    const { pid } = await pathOf(there.daemon)
    await there.daemon.kill('SIGKILL')
    process.kill(pid, 'SIGKILL')
  },
})

await breaks('the lease of the other host has run out', {
  check: 'remote-lease',
  what: /nobody leases the subnet of 10\.5\.\d+\.2/,
  spoil: async () => {
    const { lease } = await there.daemon.status()
    await there.daemon.kill('SIGINT')
    await lab.etcd.ctl('del', lease?.key ?? '')
  },
})

await breaks('the way takes shorter packets only', {
  check: 'path-mtu',
  what: /the way to 192\.168\.77\.12 takes packets of (139\d|1400) bytes, and ours are up to 1500/,
  spoil: () =>
    ipInside(underlayNamespace(NAME), [
      'link set host1 mtu 1400',
      'link set host2 mtu 1400',
    ]),
  // Both hosts have to send shorter packets, and the bridges of their containers as well. Where
  // the second finds less than the first, the first has to follow, and is told so.
  mend: async () => {
    const checks = ['bridge-mtu', 'path-mtu']
    const missing = new Set([
      ...checks,
      ...checks.map(check => `${check} on ${hostAddress(2)}`),
    ])
    const told: string[] = []
    // A daemon follows its interface a moment later: what is left for that moment is not the end.
    await waitFor(
      'all of it is told of, and mended',
      async () => {
        const { checks, what, mend: command } = await why()
        if (checks.length === 0) return missing.size === 0
        told.push(what)
        for (const check of checks) missing.delete(check)
        await mend(command)
        return false
      },
      MENDS_MS,
    ).catch((error: unknown) => {
      const left = [...missing].join(', ')
      throw new Error(`not told of: ${left}; told: ${told.join('; ')}`, { cause: error })
    })
  },
  tidyUp: async () => {
    await ipInside(underlayNamespace(NAME), [
      'link set host1 mtu 1500',
      'link set host2 mtu 1500',
    ])
    for (const host of lab.hosts)
      await host.run(['ip', 'link', 'set', 'eth0', 'mtu', '1500'])
  },
})

await breaks('the other host does not forward', {
  check: `forwarding on ${hostAddress(2)}`,
  what: /net\.ipv4\.ip_forward is 0/,
  spoil: sh(there, 'echo 0 > /proc/sys/net/ipv4/ip_forward'),
})

await breaks('packets are given another source', {
  check: 'masquerade',
  what: /are given the address of flannel0 for their source \(iptables-nft -A POSTROUTING .*MASQUERADE\)/,
  spoil: sh(here, `iptables -t nat -I POSTROUTING -s ${a} ! -o docker0 -j MASQUERADE`),
})

await t.test('nobody has the address', async t => {
  const nobody = b.replace(/\.\d+$/, '.77')
  const check = `container on ${hostAddress(2)}`
  let answer = await why(a, nobody)
  await waitFor('the other host is free', async () => {
    answer = await why(a, nobody)
    return answer.checks[0] === check
  }).catch(() => undefined)
  t.same(answer.checks, [check])
  t.match(answer.what, `nobody on this host has ${nobody}`)
})

await t.test('usage', async t => {
  t.match((await flannelctl(here, ['why', '--help'])).stdout, /flannelctl why --verbose/)
  t.equal((await flannelctl(here, ['why', a])).exitCode, 2)
  t.equal((await flannelctl(here, ['why', a, 'me'])).exitCode, 2)
  const { stderr } = await flannelctl(here, ['why', b, b])
  t.match(stderr, /neither .* nor .* is on this host \(10\.5\.\d+\.0\/24\)/)
  const outside = await flannelctl(here, ['why', a, '203.0.113.1'])
  t.match(outside.stderr, /203\.0\.113\.1 is no address of the network 10\.5\.0\.0\/16/)
})

await t.test('without --peer-port', async () => {
  await here.daemon.kill('SIGINT')
  await here.daemon.start(undefined, ['--peer-port=0'])
  await here.daemon.knows(1)
  await waitFor('all that it says is that', async () => {
    const { exitCode, stdout, stderr } = await flannelctl(here, ['why', a, b])
    const why = 'was not asked for its half: flanneld runs without --peer-port'
    return exitCode === 0 && stdout === '' && stderr.includes(why)
  })
})
