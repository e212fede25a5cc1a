/** The units, read by systemd itself. That they are enough, machine.test.ts shows. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { SETTINGS_FILES } from '../../cmd/flannelctl/unit-settings.js'
import { CommandError, run } from '../../lib/linux/run.js'

const UNITS = new URL('../../../packaging/systemd/', import.meta.url)
const UNIT = fileURLToPath(new URL('flanneld.service', UNITS))

/** As systemd-analyze has it; 10 is bare root. */
const MOST_EXPOSURE = 3.1

t.test('systemd reads it, and says how far it is exposed', async t => {
  const flags = ['security', '--offline=true', '--no-pager', UNIT]
  const text = await run('systemd-analyze', flags, { timeoutMs: 60_000 })
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
      timeoutMs: 60_000,
    }).catch((error: unknown) =>
      error instanceof CommandError ? error.stdout + error.stderr : String(error),
    )
    // Programs and units that are not on this machine are none of a typing error's.
    t.notMatch(said, /Unknown|Invalid|Failed to parse|Missing/, name)
  }
})

t.test('flannelctl reads the settings that the unit reads', async t => {
  const text = await readFile(UNIT, 'utf8')
  const files = Array.from(text.matchAll(/^EnvironmentFile=-(.*)$/gm), ([, path]) => path)
  t.same(files, SETTINGS_FILES)
})
