import { spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import t from 'tap'
import { bashCompletion } from '../../cmd/documents/completion.js'
import { makeDocuments } from '../../cmd/documents/documents.js'
import { formatManPage } from '../../cmd/documents/man-page.js'
import { COMMANDS } from '../../cmd/flannelctl/commands.js'
import {
  FLANNELD_FLAGS,
  type Flag,
  environmentName,
} from '../../cmd/flanneld/flag-table.js'
import { parseVariables } from '../../lib/subnet/subnet-env.js'

const ROOT = new URL('../../../', import.meta.url)

const documents = await makeDocuments(ROOT)
const FLAGS = Object.entries<Flag>(FLANNELD_FLAGS)
const shown = FLAGS.filter(([, { refused }]) => refused === undefined).map(
  ([name]) => name,
)
const refused = FLAGS.filter(([, flag]) => flag.refused !== undefined).map(
  ([name]) => name,
)

t.test('what is in the project is what the tables say', async t => {
  for (const [path, text] of documents)
    t.ok(
      (await readFile(new URL(path, ROOT), 'utf8')) === text,
      `${path}: npm run documents`,
    )
})

t.test('every flag is in each of them, and none that is refused', t => {
  const page = documents.get('packaging/man/flanneld.8') ?? ''
  const bash = documents.get('packaging/completion/flanneld.bash') ?? ''
  const zsh = documents.get('packaging/completion/_flanneld') ?? ''
  const readme = documents.get('README.md') ?? ''
  const variables = documents.get('packaging/default/flanneld') ?? ''
  const has = (name: string): boolean[] => [
    page.includes(`.B \\-\\-${name.replaceAll('-', '\\-')}`),
    new RegExp(`[ "]--${name}[ =]`).test(bash),
    new RegExp(`'[*]?--${name}[=[]`).test(zsh),
    readme.includes(`| \`--${name}\` |`),
    variables.includes(`\n#${environmentName(name)}=`),
  ]
  for (const name of shown) t.same(has(name), [true, true, true, true, true], name)
  for (const name of refused) t.same(has(name), [false, false, false, false, false], name)
  t.end()
})

t.test('every command is in the page and in the completions', t => {
  const page = documents.get('packaging/man/flannelctl.8') ?? ''
  for (const name of Object.keys(COMMANDS)) {
    t.match(page, `.SH "COMMAND ${name.toUpperCase()}"`)
    t.match(documents.get('packaging/completion/_flanneld'), `    '${name}:`)
  }
  t.end()
})

t.test('man reads the pages without a complaint', t => {
  for (const name of ['flanneld', 'flannelctl']) {
    const input = documents.get(`packaging/man/${name}.8`)
    const { stderr, stdout, status } = spawnSync('groff', ['-man', '-Tutf8', '-ww'], {
      input,
      encoding: 'utf8',
    })
    t.same({ status, stderr }, { status: 0, stderr: '' }, name)
    t.match(stdout, 'etcd')
  }
  const odd = formatManPage({
    name: 'x',
    section: 8,
    summary: 'a-b',
    version: '1',
    sections: [{ title: 'T', parts: [{ paragraph: ".so /etc/passwd\n'x \\n[y]" }] }],
  })
  t.match(odd, "\\&.so /etc/passwd\n\\&'x \\en[y]", 'no text is a request')
  t.end()
})

/** What bash offers behind a line. */
function complete(line: string): string[] {
  const script = `${bashCompletion(FLANNELD_FLAGS, [
    {
      name: 'why',
      summary: '',
      flags: { json: { type: 'boolean', default: 'false', describe: '' } },
    },
    { name: 'watch', summary: '', flags: {} },
  ])}
compopt() { :; }
COMP_LINE=$1 COMP_POINT=\${#1}
read -ra COMP_WORDS <<< "$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
"_\${COMP_WORDS[0]}"
printf '%s\\n' "\${COMPREPLY[@]}"`
  const { stdout, stderr } = spawnSync('bash', ['-c', script, 'bash', line], {
    encoding: 'utf8',
  })
  if (stderr !== '') throw new Error(stderr)
  return stdout.split('\n').filter(word => word !== '')
}

t.test('bash completes', t => {
  t.same(complete('flanneld --iface'), [
    '--iface=',
    '--iface-regex=',
    '--iface-timeout=',
    '--iface-can-reach=',
  ])
  t.same(complete('flannelctl w'), ['why', 'watch'])
  t.same(complete('flannelctl why --j'), ['--json'])
  t.same(complete('flannelctl watch --'), ['--help'])
  t.same(complete('flanneld --iface=e'), [], 'a value is no flag')
  t.end()
})

t.test('the completion for zsh is read by zsh', t => {
  const input = documents.get('packaging/completion/_flanneld')
  const { status, stderr } = spawnSync('zsh', ['-n'], { input, encoding: 'utf8' })
  t.same({ status, stderr }, { status: 0, stderr: '' })
  t.end()
})

t.test('the variables are what systemd and a shell read', t => {
  const text = (documents.get('packaging/default/flanneld') ?? '').replaceAll(
    /^#(?=FLANNELD_)/gm,
    '',
  )
  const { stdout } = spawnSync('sh', ['-c', `set -a; eval "$0"; env -0`, text], {
    encoding: 'utf8',
  })
  const shell = new Map(
    stdout.split('\0').map(each => {
      const at = each.indexOf('=')
      return [each.slice(0, at), each.slice(at + 1)] as const
    }),
  )
  for (const [name, flag] of Object.entries(FLANNELD_FLAGS)) {
    if ('refused' in flag) continue
    const variable = environmentName(name)
    t.equal(shell.get(variable), flag.default, variable)
  }
  t.type(parseVariables(text).get('FLANNELD_VERIFY'), 'string')
  t.end()
})
