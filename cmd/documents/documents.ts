/** What is written from the tables of flags and commands, so that it cannot differ from them. */
import { readFile } from 'node:fs/promises'
import type { FlagTable } from '../flanneld/command-line.js'
import { FLANNELD_FLAGS, environmentName } from '../flanneld/flag-table.js'
import { VERSION } from '../flanneld/version.js'
import { COMMON_FLAGS, EXIT } from '../flannelctl/command.js'
import { COMMANDS } from '../flannelctl/commands.js'
import { type Completed, bashCompletion, offered, zshCompletion } from './completion.js'
import { environmentFile } from './environment-file.js'
import { type Part, formatManPage } from './man-page.js'

interface CommandDocument extends Completed {
  readonly help: string
}

const README = 'README.md'
const START = '<!-- flags: made by "npm run documents" -->\n'
const END = '<!-- end of flags -->\n'

/** By their paths in the project. @param root of the project, where README.md is. */
export async function makeDocuments(root: URL): Promise<ReadonlyMap<string, string>> {
  const commands = await loadCommands()
  const flags: FlagTable = FLANNELD_FLAGS
  const readme = await readFile(new URL(README, root), 'utf8')
  return new Map([
    ['packaging/man/flanneld.8', flanneldPage(flags)],
    ['packaging/man/flannelctl.8', flannelctlPage(commands)],
    ['packaging/completion/flanneld.bash', bashCompletion(flags, commands)],
    ['packaging/completion/_flanneld', zshCompletion(flags, commands)],
    ['packaging/default/flanneld', environmentFile(flags)],
    [README, withTable(readme, flags)],
  ])
}

async function loadCommands(): Promise<CommandDocument[]> {
  return await Promise.all(
    Object.entries(COMMANDS).map(async ([name, entry]) => {
      const { help, flags } = await entry.load()
      return { name, summary: entry.summary, help, flags }
    }),
  )
}

function flanneldPage(flags: FlagTable): string {
  return formatManPage({
    name: 'flanneld',
    section: 8,
    summary: 'the overlay network of the containers of several hosts',
    version: VERSION,
    sections: [
      { title: 'SYNOPSIS', parts: [{ verbatim: 'flanneld [flags]' }] },
      {
        title: 'DESCRIPTION',
        parts: [
          {
            paragraph:
              'Leases a subnet of a network for this host, which etcd keeps, follows the leases of the other hosts, and has packets carried between them. Writes for Docker, into the subnet file, what addresses its containers may have.',
          },
        ],
      },
      {
        title: 'OPTIONS',
        parts: [
          {
            paragraph:
              'Each can be given as -name and as --name, and by the variable of the environment that is named in brackets; the command line counts more.',
          },
          ...flagParts(flags),
        ],
      },
      {
        title: 'SIGNALS',
        parts: [
          {
            item: 'SIGTERM',
            text: 'ends the daemon; packets go on until the next one takes over, or the lease has run out.',
          },
          { item: 'SIGINT', text: 'ends the daemon, and forwarding.' },
          {
            item: 'SIGHUP',
            text: 'has certificates and the password of etcd read again; from a terminal it ends the daemon.',
          },
        ],
      },
      {
        title: 'FILES',
        parts: [
          {
            item: '/run/flannel/subnet.env',
            text: 'the subnet of this host, for Docker.',
          },
          {
            item: '/etc/default/flanneld',
            text: 'variables of the environment, where systemd starts the daemon.',
          },
        ],
      },
      { title: 'SEE ALSO', parts: [{ paragraph: 'flannelctl(8)' }] },
    ],
  })
}

function flannelctlPage(commands: readonly CommandDocument[]): string {
  return formatManPage({
    name: 'flannelctl',
    section: 8,
    summary: 'look at an overlay network, and find what is wrong with it',
    version: VERSION,
    sections: [
      {
        title: 'SYNOPSIS',
        parts: [{ verbatim: 'flannelctl COMMAND [flags] [arguments]' }],
      },
      ...commands.map(({ name, summary, help, flags }) => ({
        title: `"COMMAND ${name.toUpperCase()}"`,
        parts: [
          { paragraph: `${summary}.` },
          { verbatim: help },
          ...flagParts(ownFlags(flags)),
        ],
      })),
      {
        title: '"COMMON OPTIONS"',
        parts: [
          {
            paragraph:
              'Of all commands but docker-opts and lab. They say where etcd and the daemon are, as those of flanneld do.',
          },
          ...flagParts(COMMON_FLAGS),
        ],
      },
      {
        title: '"EXIT STATUS"',
        parts: [
          { item: String(EXIT.ok), text: 'fine.' },
          { item: String(EXIT.failure), text: 'failed.' },
          { item: String(EXIT.usage), text: 'wrong usage.' },
          { item: String(EXIT.trouble), text: 'answered, and the answer is trouble.' },
        ],
      },
      { title: 'SEE ALSO', parts: [{ paragraph: 'flanneld(8)' }] },
    ],
  })
}

function ownFlags(flags: FlagTable): FlagTable {
  return Object.fromEntries(
    Object.entries(flags).filter(([name]) => !Object.hasOwn(COMMON_FLAGS, name)),
  )
}

function flagParts(flags: FlagTable): Part[] {
  return offered(flags).map(([name, flag]) => {
    const { type, describe, default: value, choices, environment } = flag
    const notes = [
      ...(choices === undefined ? [] : [`one of ${choices.filter(Boolean).join(', ')}`]),
      ...(value === '' ? [] : [`${value} unless given`]),
      ...(environment === false ? [] : [`[${environmentName(name)}]`]),
    ]
    return {
      item: `--${name}${type === 'boolean' ? '' : '=VALUE'}`,
      text: `${describe}; ${notes.join('; ')}`.replace(/; $/, ''),
    }
  })
}

/** Throws Error when the README has no place for the table. */
function withTable(readme: string, flags: FlagTable): string {
  const start = readme.indexOf(START)
  const end = readme.indexOf(END)
  if (start < 0 || end < start) throw new Error(`${README} has no place for the flags`)
  return `${readme.slice(0, start + START.length)}\n${flagTable(flags)}\n${readme.slice(end)}`
}

function flagTable(flags: FlagTable): string {
  const rows = offered(flags).map(([name, { describe, default: value }]) => {
    const shown = value === '' ? '' : `\`${value}\``
    return `| \`--${name}\` | ${shown} | ${describe.replaceAll('|', '\\|')} |\n`
  })
  return `| flag | default | |\n|---|---|---|\n${rows.join('')}`
}
