import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseDocument } from 'yaml'
import { UsageError } from '../flanneld/parse-flags.js'
import { type Imported, importCloudConfig } from './cloud-config.js'
import { CommandFailure, EXIT, defineCommand, printJson } from './command.js'

const HEADER = /^#cloud-config\s*$/m

/** Far longer than any that a cloud takes. */
const MOST_CHARACTERS = 1 << 20

const ADDRESS = { type: 'string', default: '', environment: false } as const

export const importCommand = defineCommand({
  help: `
flannelctl import cloud-config FILE [flags]

Makes of the section coreos.flannel of a CoreOS cloud-config what flanneld reads today:
a file of variables for systemd, units and drop-ins, and the commands to run once.
Prints all of it, or writes the files below --output. Says what is left out, and why.

  flannelctl import cloud-config user-data
  flannelctl import cloud-config user-data --private-ipv4=10.0.0.5 --output=/`,
  flags: {
    json: {
      type: 'boolean',
      default: 'false',
      describe: 'print JSON for programs',
      environment: false,
    },
    output: {
      type: 'string',
      default: '',
      describe:
        'directory that the files are written below, such as /; printed unless given',
      environment: false,
    },
    'private-ipv4': { ...ADDRESS, describe: 'what $private_ipv4 stands for' },
    'public-ipv4': { ...ADDRESS, describe: 'what $public_ipv4 stands for' },
    'private-ipv6': { ...ADDRESS, describe: 'what $private_ipv6 stands for' },
    'public-ipv6': { ...ADDRESS, describe: 'what $public_ipv6 stands for' },
  },
  run: async (flags, [kind, file, ...more]) => {
    if (kind !== 'cloud-config' || file === undefined || more.length > 0)
      throw new UsageError('usage: flannelctl import cloud-config FILE')
    const imported = readCloudConfig(await readFile(file, 'utf8'), file, {
      private_ipv4: flags['private-ipv4'] || undefined,
      public_ipv4: flags['public-ipv4'] || undefined,
      private_ipv6: flags['private-ipv6'] || undefined,
      public_ipv6: flags['public-ipv6'] || undefined,
    })
    if (flags.output !== '') await writeFiles(imported, flags.output)
    if (flags.json) printJson(imported)
    else print(imported, flags.output)
    return EXIT.ok
  },
})

/** Throws CommandFailure. */
export function readCloudConfig(
  text: string,
  file: string,
  addresses: Record<string, string | undefined>,
): Imported {
  if (text.length > MOST_CHARACTERS) throw new CommandFailure(`${file} is too long`)
  if (!HEADER.test(text.slice(0, 1000)))
    throw new CommandFailure(`${file} is no cloud-config: it has no line #cloud-config`)
  const document = parseDocument(text, { logLevel: 'error' })
  const [error] = document.errors
  if (error !== undefined) throw new CommandFailure(`${file}: ${error.message}`)
  const known = Object.entries(addresses).filter(([, value]) => value !== undefined)
  try {
    return importCloudConfig(
      document.toJS({ maxAliasCount: 10 }),
      Object.fromEntries(known),
    )
  } catch (cause) {
    if (!(cause instanceof TypeError || cause instanceof ReferenceError)) throw cause
    throw new CommandFailure(`${file}: ${cause.message}`, { cause })
  }
}

/** Never over what is there: the operator's own settings stay. */
async function writeFiles({ files }: Imported, root: string): Promise<void> {
  const there = files.map(({ path }) => join(root, path)).filter(path => existsSync(path))
  if (there.length > 0)
    throw new CommandFailure(
      `${there.join(' and ')} is there already; nothing is written`,
    )
  for (const { path, mode, text } of files) {
    const whole = join(root, path)
    await mkdir(dirname(whole), { recursive: true })
    await writeFile(whole, text, { mode, flag: 'wx' })
  }
}

function print({ files, commands, warnings }: Imported, root: string): void {
  for (const { path, mode, text } of files) {
    const name = root === '' ? path : join(root, path)
    process.stdout.write(
      root === ''
        ? `== ${name} (${mode.toString(8)})\n${text}\n`
        : `${name} is written\n`,
    )
  }
  if (commands.length > 0)
    process.stdout.write(`== to run once\n${commands.map(each => `${each}\n`).join('')}`)
  for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`)
}
