/** A few of the faults of npm run faults, and that it would notice what is not well. */
import t from 'tap'
import { Cluster } from './cluster.js'
import { FAULTS } from './faults.js'
import { findViolations, remember } from './invariants.js'
import { settle, tryFaults } from './try-faults.js'

/** What is asserted is that it recovers; how fast, npm run faults says. */
const PATIENCE = 10

await t.test('what is broken is well again', async t => {
  const short = FAULTS.filter(({ isShort = false }) => isShort)
  for await (const { fault, lost, sent, gapMs, failures } of tryFaults(
    'udp',
    short,
    PATIENCE,
  ))
    t.strictSame(
      failures,
      [],
      `${fault}: ${lost} of ${sent} lost, longest gap ${Math.round(gapMs)} ms`,
    )
})

await t.test('what stays broken is told', async t => {
  const cluster = await Cluster.open({
    backend: 'vxlan',
    members: 1,
    hosts: 2,
    isQuiet: true,
  })
  try {
    const memory = await remember(cluster)
    const one = cluster.lab.host(1)
    t.strictSame(await settle(cluster, memory), [])
    process.kill(one.daemon.pid, 'SIGSTOP')
    await one.run(['ip', 'link', 'set', 'other0', 'down'])
    await one.run([
      'bridge',
      'fdb',
      'append',
      '02:00:00:00:00:01',
      'dev',
      'flannel.1',
      'dst',
      '192.0.2.1',
    ])
    await one.run(['ip', 'route', 'flush', 'proto', '76'])
    const violations = (await findViolations(cluster, memory)).join('\n')
    t.match(
      violations,
      /host1: no route 10\.5\.\d+\.0\/24 via 10\.5\.\d+\.0 dev flannel\.1/,
    )
    t.match(violations, /host1: a FDB entry 02:00:00:00:00:01 192\.0\.2\.1/)
    t.match(violations, /host1: something of another owner was changed/)
    t.match(violations, /host1: its container does not reach 10\.5\./)
    process.kill(one.daemon.pid, 'SIGCONT')
  } finally {
    await cluster.close()
  }
})
