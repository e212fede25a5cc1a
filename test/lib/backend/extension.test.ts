/** The operator's commands: run without a shell, told of what comes and goes. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Backend, BackendContext, Remote } from '../../../lib/backend/backend.js'
import { planBackend } from '../../../lib/backend/backends.js'
import { DUAL_NETWORK, backendContext } from '../../helpers/backend-context.js'
import { subnetOf } from '../../helpers/lease-host.js'
import { inOwnNetwork } from '../../helpers/own-network.js'
import { remote } from './remote-walks.js'

const OWN = subnetOf('10.5.1.0/24', 'fd00:5:0:1::/64')

/** Says on each line how it was called: its first word, the rest, the variables, the input. */
const SCRIPT = `#!/bin/sh
printf '%s' "$1" >> "$0.log"
shift
for word in "$@"; do printf ' [%s]' "$word" >> "$0.log"; done
printf ' %s %s %s %s %s <%s>\\n' "$NETWORK" "$SUBNET" "$IPV6SUBNET" "$PUBLIC_IP" "$PUBLIC_IPV6" "$(cat)" >> "$0.log"
echo out; echo err >&2
`

interface Place {
  readonly script: string
  /** Lines since the last call. */
  lines(): string[]
  context(backend: object): BackendContext
}

function openPlace(t: Test): Place {
  const directory = mkdtempSync(join(tmpdir(), 'extension-'))
  t.teardown(() => {
    rmSync(directory, { recursive: true })
  })
  const script = join(directory, 'a script')
  writeFileSync(script, SCRIPT)
  chmodSync(script, 0o755)
  const log = `${script}.log`
  writeFileSync(log, '')
  return {
    script,
    lines: () => {
      const text = readFileSync(log, 'utf8')
      writeFileSync(log, '')
      return text.split('\n').filter(line => line !== '')
    },
    context: backend =>
      backendContext(
        { ...DUAL_NETWORK, Backend: { Type: 'extension', ...backend } },
        directory,
      ),
  }
}

const SAID = '10.5.0.0/16 10.5.1.0/24 fd00:5:0:1::/64 192.0.2.1 2001:db8::1'

async function open(place: Place, backend: object): Promise<Backend> {
  return await planBackend(place.context(backend)).start(OWN)
}

await inOwnNetwork(t, import.meta.url, () => {
  t.test('what the first command prints goes into the lease', async t => {
    const place = openPlace(t)
    const quoted = `"${place.script}"`
    const plan = planBackend(place.context({ PreStartupCommand: `${quoted} pre` }))

    t.equal(plan.leaseType, 'extension')
    t.equal(plan.overlayMtu, 1500)
    t.strictSame(await plan.leaseData?.(), { backendData: 'out\nerr' })
    t.strictSame(place.lines(), ['pre      <>'])
    const none = planBackend(place.context({}))
    t.strictSame(await none.leaseData?.(), {})
  })

  t.test('words are those of a shell, and variables are never split', async t => {
    const place = openPlace(t)
    await open(place, {
      PostStartupCommand: `'${place.script}' post "a b" c\\ d '$SUBNET' $SUBNET "\${PUBLIC_IP} x" $NOBODY`,
    })

    t.strictSame(place.lines(), [
      `post [a b] [c d] [$SUBNET] [10.5.1.0/24] [192.0.2.1 x] [] ${SAID} <>`,
    ])
  })

  t.test('of a remote they are told when it comes, changes and goes', async t => {
    const place = openPlace(t)
    const quoted = `"${place.script}"`
    const backend = await open(place, {
      SubnetAddCommand: `${quoted} add`,
      SubnetRemoveCommand: `${quoted} remove`,
    })
    const first: Remote = remote(2, { backendData: 'some; data `reboot`' })

    await backend.apply([first])
    await backend.apply([first])
    const two = '10.5.2.0/24 fd00:5:0:2::/64 192.0.2.2 2001:db8::2'
    t.strictSame(place.lines(), [`add  ${two} <some; data \`reboot\`>`], 'once')

    await backend.apply([remote(2, { backendData: { a: 1 } })])
    t.strictSame(place.lines(), [`add  ${two} <{"a":1}>`], 'changed')

    await backend.apply([])
    t.strictSame(place.lines(), [`remove  ${two} <{"a":1}>`])

    await backend.apply([first])
    await backend.close('keep')
    t.strictSame(place.lines(), [`add  ${two} <some; data \`reboot\`>`])
    await backend.close('end')
    t.strictSame(place.lines(), [`remove  ${two} <some; data \`reboot\`>`])
  })

  t.test('a command that fails is a trouble, and tried again', async t => {
    const place = openPlace(t)
    const backend = await open(place, {
      SubnetAddCommand: 'sh -c "echo no such luck >&2; exit 3"',
    })

    await backend.apply([remote(2), remote(3)])

    t.match(
      backend.trouble,
      /^10\.5\.[23]\.0\/24 and fd00:5:0:[23]::\/64: Backend\.SubnetAddCommand: .*failed with exit code 3: no such luck \(and 1 more\)$/,
    )
    await backend.apply([])
    t.equal(backend.trouble, undefined)
  })

  t.test(
    'a command at the start that fails ends it, in the words of the command',
    async t => {
      const place = openPlace(t)
      await t.rejects(
        open(place, { PostStartupCommand: 'sh -c "echo no such luck; exit 3"' }),
        {
          code: 'ERR_COMMAND',
          message:
            /^Backend\.PostStartupCommand: .*failed with exit code 3: no such luck/,
        },
      )
      await t.rejects(open(place, { PostStartupCommand: '/nowhere/to/be/found' }), {
        code: 'ERR_COMMAND',
        message: /ENOENT/,
      })
    },
  )

  t.test('what only a shell could do is refused, by name', t => {
    const place = openPlace(t)
    for (const [command, why] of [
      ['ip route | wc', /"\|" in .* needs a shell/],
      ['a; b', /";" in /],
      ['a && b', /"&" in /],
      ['a > b', /">" in /],
      ['a $(b)', /"\$" in /],
      ['a `b`', /"`" in /],
      ['a "b', /is not closed/],
    ] as const)
      t.throws(() => planBackend(place.context({ SubnetAddCommand: command })), {
        code: 'ERR_BACKEND_OPTION',
        message: why,
      })
    t.throws(() => planBackend(place.context({ PreStartupCommand: 7 })), {
      message: /^Backend\.PreStartupCommand: it must be a text$/,
    })
    t.end()
  })
})
