/** The units: read by systemd itself, and as few rights as they leave are enough. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import {
  isRunning,
  happens,
  openTestLab,
  pathOf,
  startTraffic,
  stopTraffic,
} from '../netns/open-test-lab.js'
import { CommandError, run } from '../../lib/linux/run.js'

const UNITS = new URL('../../../packaging/systemd/', import.meta.url)
const UNIT = fileURLToPath(new URL('flanneld.service', UNITS))

/** As systemd-analyze has it; 10 is bare root. */
const MOST_EXPOSURE = 3.1

/** The value of a setting of the unit that is there once. */
async function setting(name: string): Promise<string> {
  const text = await readFile(UNIT, 'utf8')
  const [, value = ''] = new RegExp(`^${name}=(.*)$`, 'm').exec(text) ?? []
  return value
}

await t.test('systemd reads it, and says how far it is exposed', async t => {
  const text = await run('systemd-analyze', [
    'security',
    '--offline=true',
    '--no-pager',
    UNIT,
  ])
  const [, score] = /Overall exposure level for \S+: ([\d.]+)/.exec(text) ?? []
  t.ok(Number(score) <= MOST_EXPOSURE, `${score ?? ''} of 10`)
  for (const name of [
    'flanneld.service',
    'needs-network.service',
    'subnet-changed.service',
    'subnet-changed.path',
  ]) {
    const unit = fileURLToPath(new URL(name, UNITS))
    const said = await run('systemd-analyze', ['verify', '--man=no', unit], {
      isCombined: true,
    }).catch((error: unknown) =>
      error instanceof CommandError ? error.stdout + error.stderr : String(error),
    )
    // Programs and units that are not on this machine are none of a typing error's.
    t.notMatch(said, /Unknown|Invalid|Failed to parse|Missing/, name)
  }
})

await t.test('its capabilities are enough', async t => {
  const bounding = (await setting('CapabilityBoundingSet'))
    .split(' ')
    .map(name => `+${name.replace('CAP_', '').toLowerCase()}`)
  const through = [
    'setpriv',
    `--bounding-set=-all,${bounding.join(',')}`,
    '--no-new-privs',
  ]
  const lab = await openTestLab(t, { name: 't-unit', hosts: 2, flags: ['--ip-masq'] })
  const [one, two] = [lab.host(1), lab.host(2)]
  await one.daemon.kill('SIGINT')
  one.daemon.through = through
  await one.daemon.start()
  const effective = await readFile(`/proc/${one.daemon.pid}/status`, 'utf8')
  t.notMatch(effective, /^CapEff:\s+0*1ffffffffff$/m, 'it has not all of them')
  const traffic = await startTraffic(one, two)
  await one.daemon.kill('SIGTERM')
  await one.daemon.start()
  const { sent, lost } = await stopTraffic(traffic)
  t.equal(lost, 0, `${sent} packets over a restart, none is lost`)

  const { pid } = await pathOf(one.daemon)
  process.kill(pid, 'SIGSTOP')
  await happens('a path that hangs is replaced', async () => {
    const { pid: next } = await pathOf(one.daemon).catch(() => ({ pid }))
    return next !== pid && !isRunning(pid)
  })
  const [reached] = await one.container.ping([two.container.address])
  t.equal(reached?.received, 1, 'and packets flow')
})
