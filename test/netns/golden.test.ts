/**
 * What every command of flannelctl says, in words and in JSON, on a host of a network
 * that is well: test/golden/flannelctl.txt, which UPDATE_GOLDEN=1 writes anew.
 */
import { readFile, writeFile } from 'node:fs/promises'
import t from 'tap'
import { flannelctl } from '../helpers/flannelctl.js'
import { openTestLab, subnetOf } from './open-test-lab.js'
import { waitFor } from '../helpers/wait-for.js'

const GOLDEN = new URL('../../../test/golden/flannelctl.txt', import.meta.url)

const COMMANDS = [
  '--help',
  'status',
  'leases',
  'lease history',
  'routes',
  'routes --probe',
  'peers',
  'drops',
  'top --count=1',
  'why A B',
  'why --verbose A B',
  'doctor',
  'doctor --verbose',
  'config get',
  'config check',
  'network usage',
  'etcd-role',
  'cleanup --dry-run',
] as const

/** Those that say the same in JSON, or nothing in it. */
const WITHOUT_JSON: ReadonlySet<string> = new Set([
  '--help',

  'why --verbose A B',
  'doctor --verbose',
  'etcd-role',
])

const lab = await openTestLab(t, {
  name: 't-golden',
  hosts: 2,
  flags: ['--probe-rate=50', '--peer-port=765'],
})
// In the order in which they are listed.
const subnets = await Promise.all(lab.hosts.map(({ daemon }) => subnetOf(daemon)))
const [first = '', second = ''] = subnets
const isInOrder = first.localeCompare(second, 'en', { numeric: true }) < 0
const [one, two] = isInOrder ? [lab.host(1), lab.host(2)] : [lab.host(2), lab.host(1)]

/** Subnets, host ids, times and measured figures differ from run to run. */
async function normalizer(): Promise<(text: string) => string> {
  const names: [string, string][] = []
  for (const [host, name] of [
    [one, 'A'],
    [two, 'B'],
  ] as const) {
    names.push([(await subnetOf(host.daemon)).replace('.0/24', '.'), `10.5.${name}.`])
    const { lease } = await host.daemon.status()
    names.push([lease?.record.HostID ?? '', `ID-OF-${name}`])
    names.push([host.address, `192.168.77.${name}`])
  }
  return text => {
    // A subnet that the configuration names may be the host's by chance.
    const isConfig = text.startsWith('$ flannelctl config')
    const named = isConfig
      ? text
      : names.reduce((all, [from, to]) => all.replaceAll(from, to), text)
    return (
      named
        .replaceAll(/\(pid \d+\)/g, '(pid N)')
        .replaceAll(/"traffic": \{[^}]*\}/g, each => each.replaceAll(/: \d+/g, ': "#"'))
        .replaceAll(/\d+\.\d+ ms/g, 'N ms')
        .replaceAll(/\b(1d0h|23h5\dm)\b/g, 'AGE')
        // A busy machine answers some pings too late.
        .replaceAll(/"(loss|overlayLoss)": [\d.]+/g, '"$1": 0')
        .replaceAll(/ \d+% /g, ' 0% ')
        .replaceAll(/\b\d+ [kM]?(bit\/s|\/s)/g, 'N $1')
        .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
        .replaceAll(
          /"(pid|\w*[rR]oundTripMs|\w*Seconds|\w*PerSecond|\w*Revision|applies|etcdCalls|sent)": ?(-?\d[\d.e-]*|"[^"]*")/g,
          '"$1": "#"',
        )
        .replaceAll(/ {2,}(?=\S)/g, (blanks: string, at: number, whole: string) =>
          at === 0 || whole[at - 1] === '\n' ? blanks : '  ',
        )
    )
  }
}

await t.test('all commands', async t => {
  const [a, b] = [one.container.address, two.container.address]
  await waitFor('the ways are known, and the other host answers', async () => {
    const { stdout } = await flannelctl(one, ['peers'])
    const { exitCode, stderr } = await flannelctl(one, ['why', a, b])
    return stdout.includes(' 1500 ') && exitCode === 0 && stderr === ''
  })
  const normalize = await normalizer()
  const golden = new Set((await readFile(GOLDEN, 'utf8')).split(/\n(?=\$ flannelctl )/))
  const isUpdate = process.env['UPDATE_GOLDEN'] !== undefined
  const said: string[] = []
  let patienceMs = 60_000
  for (const command of COMMANDS) {
    const words = command.replace('A B', `${a} ${b}`).split(' ')
    for (const json of WITHOUT_JSON.has(command) ? [[]] : [[], ['--json']]) {
      let text = ''
      // A busy machine is late with some answers, and not to be asked too often.
      await waitFor(
        'it says what it always says',
        async () => {
          const { exitCode, stdout, stderr } = await flannelctl(one, [...words, ...json])
          const exit = exitCode === 0 ? '' : `[exit code ${exitCode}]\n`
          const line = ['flannelctl', command, ...json].join(' ')
          text = normalize(`$ ${line}\n${stdout}${stderr}${exit}`)
          const isAnswer = !command.startsWith('why') || (stderr === '' && exitCode === 0)
          return isUpdate ? isAnswer : golden.has(text)
        },
        patienceMs,
      ).catch(() => {
        patienceMs = 0
      })
      said.push(text)
    }
  }
  const text = said.join('\n')
  if (isUpdate) await writeFile(GOLDEN, text)
  t.equal(text, await readFile(GOLDEN, 'utf8'))
})
