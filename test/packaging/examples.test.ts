/** Examples name flags, variables and programs that there are, and are what their readers read. */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import { parse } from 'yaml'
import { z } from 'zod'
import { COMMANDS } from '../../cmd/flannelctl/commands.js'
import { readCommandLine } from '../../cmd/flanneld/command-line.js'
import { FLANNELD_FLAGS, environmentName } from '../../cmd/flanneld/flag-table.js'
import { UsageError } from '../../cmd/flanneld/parse-flags.js'
import { splitWords } from '../../lib/linux/words.js'

const PACKAGING = new URL('../../../packaging/', import.meta.url)
const VARIABLES = new Set(Object.keys(FLANNELD_FLAGS).map(environmentName))

const read = (path: string): Promise<string> => readFile(new URL(path, PACKAGING), 'utf8')

t.test('variables that there are', async t => {
  for (const path of [
    'oci/Containerfile',
    'cloud-init/user-data.yaml',
    'butane/flanneld.bu',
  ]) {
    const names = (await read(path)).match(/FLANNELD_\w+/g) ?? []
    t.ok(names.length > 0, path)
    for (const name of names) t.ok(VARIABLES.has(name), `${path}: ${name}`)
  }
})

t.test('cloud-init', async t => {
  const text = await read('cloud-init/user-data.yaml')
  t.match(text, /^#cloud-config\n/)
  const data = z
    .strictObject({
      write_files: z.array(
        z.strictObject({
          path: z.string().startsWith('/'),
          permissions: z.string().regex(/^0[0-7]{3}$/),
          content: z.string(),
        }),
      ),
      runcmd: z.array(z.array(z.string())),
    })
    .parse(parse(text))
  const dropIn = data.write_files.find(({ path }) => path.includes('docker.service.d'))
  const ours = await read('systemd/docker.service.d/flanneld.conf')
  const settings = (unit: string): string[] =>
    unit.split('\n').filter(line => /^\w+=/.test(line))
  t.same(settings(dropIn?.content ?? ''), settings(ours), 'the drop-in of the package')
})

t.test('Butane', async t => {
  const data = z
    .looseObject({
      variant: z.literal('flatcar'),
      version: z.string(),
      systemd: z.looseObject({
        units: z.array(z.looseObject({ name: z.string(), contents: z.string() })),
      }),
      storage: z.looseObject({
        files: z.array(z.looseObject({ path: z.string(), mode: z.number() })),
      }),
    })
    // As Butane reads it, for which 0644 is octal.
    .parse(parse(await read('butane/flanneld.bu'), { version: '1.1' }))
  t.match(data.systemd.units[0]?.contents, /--env-file=\/etc\/flannel\/options\.env/)
  t.equal(data.storage.files[0]?.mode, 0o644)
})

t.test('CNI', async t => {
  const list = z
    .strictObject({
      name: z.string(),
      cniVersion: z.string().regex(/^\d+\.\d+\.\d+$/),
      plugins: z.array(z.looseObject({ type: z.string() })).min(1),
    })
    .parse(JSON.parse(await read('cni/10-flannel.conflist')))
  t.match(list.plugins[0], { type: 'flannel', subnetFile: '/run/flannel/subnet.env' })
})

/** Lines of a text that are commands of ours, without what a shell does with their output. */
function examples(text: string): string[][] {
  return text
    .split('\n')
    .map(line => line.trim().replace(/^(sudo|systemctl stop flanneld &&) /, ''))
    .filter(line => /^flanneld? ?/.test(line) || line.startsWith('flannelctl '))
    .map(line => line.replace(/ +# .*| +[|<>&].*/, ''))
    .map(line => splitWords(line.replaceAll('[flags]', '')))
}

/** Throws UsageError when a line could not be run. */
async function check([program, name = '', ...args]: readonly string[]): Promise<void> {
  if (program !== 'flannelctl') return
  if (name.startsWith('-') || name === 'COMMAND') return
  if (!Object.hasOwn(COMMANDS, name)) throw new UsageError(`no command ${name}`)
  const { flags } = (await COMMANDS[name]?.load()) ?? { flags: {} }
  // Those that read their own flags have tests of their own.
  if (Object.keys(flags).length > 0) readCommandLine(flags, args, {})
}

t.test('every command that the README and the help texts show can be run', async t => {
  const readme = await readFile(new URL('../README.md', PACKAGING), 'utf8')
  const fenced = Array.from(
    readme.matchAll(/^```\n([^]*?)^```/gm),
    ([, text = '']) => text,
  )
  const inline = Array.from(
    readme.matchAll(/`(flannelctl [^`]+)`/g),
    ([, text = '']) => text,
  )
  const helps = await Promise.all(
    Object.values(COMMANDS).map(async entry =>
      (await entry.load()).help
        .split('\n')
        .filter(line => line.startsWith('  '))
        .join('\n'),
    ),
  )
  const lines = [...fenced, ...inline, ...helps].flatMap(examples)
  t.ok(lines.length > 50, `${lines.length} lines`)
  for (const line of lines) await t.resolves(check(line), line.join(' '))
  await t.rejects(check(['flannelctl', 'leses']), UsageError)
  await t.rejects(check(['flannelctl', 'leases', '--jsn']), UsageError)
})
