import { open, readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { runChecks } from '../../lib/diagnosis/check.js'
import { HOST_CHECKS } from '../../lib/diagnosis/host-checks.js'
import { run } from '../../lib/linux/run.js'
import { placesOf } from '../flanneld/places.js'
import { VERSION } from '../flanneld/version.js'
import { COMMON_FLAGS, EXIT, defineCommand, printJson, refuseWords } from './command.js'
import { type StatusFlags, askDaemon } from './daemon-status.js'
import { formatChecks } from './doctor.js'
import { readHostFacts } from './read-host-facts.js'

/** Of each section; what is longer loses its end. */
const MOST_CHARACTERS = 1 << 20

/** It names every host and address of the network. */
const MODE = 0o600

/** What an operator would be asked for. No command of these shows a key or a password. */
const COMMANDS = [
  'uname -a',
  'ip -details -statistics address show',
  'ip route show table all',
  'ip -6 route show table all',
  'ip rule show',
  'ip neigh show',
  'bridge fdb show',
  'ss -ulnp',
  'sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv6.conf.all.forwarding',
  'iptables-save',
  'ip6tables-save',
  'nft --terse list ruleset',
  'dockerd --version',
] as const

export const reportCommand = defineCommand({
  help: `
flannelctl report [--output FILE] [flags]

Writes what somebody who is to find a mistake would ask for into one file: what the
daemon says, what doctor finds, this host's interfaces, routes, rules of the firewall,
and what has become of its lease. It holds the names and addresses of your network, and
neither keys nor passwords nor the contents of packets: read it before you send it.

  flannelctl report
  flannelctl report --output - | less

Exits with ${EXIT.failure} when the file cannot be written, or is there already.`,
  flags: {
    ...COMMON_FLAGS,
    output: {
      type: 'string',
      default: '',
      describe:
        'file to write, - for standard output; flannel-report-HOST-TIME.txt unless given',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('report', words)
    const sections = await readSections(flags)
    if (flags.json) {
      printJson({ sections })
      return EXIT.ok
    }
    const text = sections.map(({ title, text }) => `== ${title}\n${text}\n`).join('\n')
    if (flags.output === '-') process.stdout.write(text)
    else await writeNew(flags.output === '' ? defaultName() : flags.output, text)
    return EXIT.ok
  },
})

interface Section {
  readonly title: string
  readonly text: string
}

type ReportFlags = StatusFlags & Parameters<typeof readHostFacts>[0]

/** What cannot be had says why: that is part of the report. */
async function readSections(flags: ReportFlags): Promise<Section[]> {
  const { journalFile } = placesOf(flags)
  return await Promise.all([
    section('versions', () => `flannelctl ${VERSION}, Node.js ${process.version}\n`),
    section('flannelctl doctor --verbose', async () =>
      formatChecks(runChecks(HOST_CHECKS, await readHostFacts(flags)), true),
    ),
    section('flannelctl status --json', async () =>
      JSON.stringify((await askDaemon(flags)) ?? 'flanneld does not run', null, 2),
    ),
    section(flags['subnet-file'], () => readFile(flags['subnet-file'], 'utf8')),
    section(journalFile, () => readFile(journalFile, 'utf8')),
    section('/etc/os-release', () => readFile('/etc/os-release', 'utf8')),
    ...COMMANDS.map(line => section(line, () => runLine(line))),
  ])
}

async function section(
  title: string,
  read: () => Promise<string> | string,
): Promise<Section> {
  try {
    const text = (await read()).trimEnd()
    const isWhole = text.length <= MOST_CHARACTERS
    return { title, text: isWhole ? text : `${text.slice(0, MOST_CHARACTERS)}\n(cut)` }
  } catch (error) {
    return { title, text: `not there: ${(error as Error).message}` }
  }
}

async function runLine(line: string): Promise<string> {
  const [program = '', ...args] = line.split(' ')
  return await run(program, args, { isCombined: true })
}

function defaultName(): string {
  const time = new Date().toISOString().replaceAll(/[-:]|\..*/g, '')
  return `flannel-report-${hostname()}-${time}.txt`
}

/** Never over what is there, and never through a link. */
async function writeNew(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', MODE)
  try {
    await file.writeFile(text)
  } finally {
    await file.close()
  }
  process.stdout.write(`${path} is written; read it before you send it\n`)
}
