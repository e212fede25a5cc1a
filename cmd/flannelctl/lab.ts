import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CommandError } from '../../lib/linux/run.js'
import { CommandFailure, type Command, EXIT } from './command.js'
import { Interrupted, interruption } from './interruption.js'
import { formatTable } from './table.js'
import { playDemo } from './lab/demo.js'
import { Lab, type LabOptions, checkLabOptions, openLab } from './lab/lab.js'
import { existingNamespaces, inside, mountsOfHost, withMounts } from './lab/namespaces.js'
import {
  DEFAULT_RUN_DIR,
  lockLab,
  placeOfLab,
  readRecord,
  removeLab,
} from './lab/record.js'
import { indent, paint } from './lab/report.js'
import { DEFAULT_HOSTS, DEFAULT_NAME, DEFAULT_NETWORK } from './lab/topology.js'

const HELP = `flannelctl lab [run|up|down|shell] [flags]

Builds a network of hosts on this machine, out of network namespaces, with a real
etcd and a real flanneld on each host. Needs root. The machine's own network is
not touched.

  lab [run]           build it, show what it does, and remove it
  lab up              build it and leave it running
  lab shell HOST [-- COMMAND …]
                      a shell, or a command, on a host (host1) or in its container (c1)
  lab down            remove it

Flags
  --hosts N           number of hosts (${DEFAULT_HOSTS})
  --name NAME         name of the lab, when there are several (${DEFAULT_NAME})
  --network CIDR      the overlay network (${DEFAULT_NETWORK})
  --run-dir DIR       where labs keep their files (${DEFAULT_RUN_DIR})
`

interface LabArguments {
  readonly verb: string
  readonly rest: readonly string[]
  readonly name: string
  readonly runDir: string
  readonly hosts: number
  readonly network: string
}

export const labCommand: Command = { help: HELP.trim(), flags: {}, run: runLab }

/** Returns the exit code. */
export async function runLab(args: readonly string[]): Promise<number> {
  if (args[0] === 'help' || args.some(arg => arg === '--help' || arg === '-h')) {
    process.stdout.write(HELP)
    return EXIT.ok
  }
  let parsed: LabArguments
  try {
    parsed = parseLabArguments(args)
  } catch (error) {
    process.stderr.write(`flannelctl lab: ${(error as Error).message}\n`)
    return EXIT.usage
  }
  try {
    return await perform(parsed)
  } catch (error) {
    if (error instanceof Interrupted) return error.exitCode
    process.stderr.write(`flannelctl lab: ${(error as Error).message}\n`)
    return EXIT.failure
  }
}

async function perform(parsed: LabArguments): Promise<number> {
  switch (parsed.verb) {
    case 'run':
      return await runDemo(parsed)
    case 'up':
      return await bringUp(parsed)
    case 'down':
      return await bringDown(parsed)
    default:
      return await enter(parsed)
  }
}

const VERBS = ['run', 'up', 'down', 'shell']

function parseLabArguments(args: readonly string[]): LabArguments {
  const dashes = args.indexOf('--')
  const own = dashes < 0 ? args : args.slice(0, dashes)
  const { values, positionals } = parseArgs({
    args: [...own],
    allowPositionals: true,
    options: {
      hosts: { type: 'string', default: String(DEFAULT_HOSTS) },
      name: { type: 'string', default: DEFAULT_NAME },
      network: { type: 'string', default: DEFAULT_NETWORK },
      'run-dir': { type: 'string', default: DEFAULT_RUN_DIR },
    },
  })
  const [verb = 'run', ...words] = positionals
  if (!VERBS.includes(verb))
    throw new Error(`there is no lab ${verb}; --help shows what there is`)
  const rest = dashes < 0 ? words : [...words, ...args.slice(dashes + 1)]
  if (verb !== 'shell' && rest.length > 0)
    throw new Error(`lab ${verb} takes no ${rest[0] ?? ''}`)
  if (verb === 'shell' && rest.length === 0)
    throw new Error('lab shell takes the name of a host, such as host1, or container, c1')
  return {
    verb,
    rest,
    name: values.name,
    runDir: values['run-dir'],
    hosts: Number(values.hosts),
    network: values.network,
  }
}

async function runDemo(options: LabOptions): Promise<number> {
  const signal = interruption()
  await checkLabOptions(options)
  const started = performance.now()
  const colours = paint(process.stdout.isTTY && !process.env['NO_COLOR'])
  const say = (text: string): void => {
    process.stdout.write(`${text}\n`)
  }
  const lab = await Lab.make({ ...options, signal })
  try {
    await playDemo(lab, { paint: colours, say, signal })
  } catch (error) {
    // A step that is interrupted fails in a way of its own.
    throw signal.aborted ? signal.reason : error
  } finally {
    await lab.close()
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(0)
  say(
    `\n${colours.good('✓')} Everything worked, and everything is removed again (${seconds} s).`,
  )
  say(colours.dim('  flannelctl lab up builds the same lab and leaves it to you.'))
  return 0
}

async function bringUp(options: LabArguments): Promise<number> {
  const signal = interruption()
  let lab: Lab
  try {
    lab = await openLab({ ...options, kind: 'up', signal })
  } catch (error) {
    throw signal.aborted ? signal.reason : error
  }
  const flags = options.name === DEFAULT_NAME ? '' : ` --name ${options.name}`
  const rows = lab.hosts.map((host, index) => [
    host.name,
    host.address,
    host.container.address,
    `flannelctl lab shell${flags} host${index + 1}`,
    `flannelctl lab shell${flags} c${index + 1}`,
  ])
  const heading = [
    'host',
    'address',
    'container',
    'enter the host',
    'enter the container',
  ]
  console.log(`Lab ${lab.name} is up.\n\n${indent(formatTable(heading, rows), 2)}\n`)
  console.log(`Files and logs: ${placeOfLab(options.runDir, options.name).directory}`)
  console.log(`Remove it: flannelctl lab down${flags}`)
  lab.leave()
  return 0
}

/** Idempotent: no lab is as good as a removed one. */
async function bringDown({ runDir, name }: LabArguments): Promise<number> {
  const place = placeOfLab(runDir, name)
  const lock = await lockLab(place)
  const existed = (await readRecord(place)) !== undefined
  await removeLab(place)
  lock.release()
  console.log(existed ? `Lab ${name} is removed.` : `There is no lab ${name}.`)
  return 0
}

async function enter({ rest, runDir, name }: LabArguments): Promise<number> {
  const [where = '', ...command] = rest
  const place = placeOfLab(runDir, name)
  if ((await readRecord(place)) === undefined)
    throw new CommandFailure(`there is no lab ${name}; flannelctl lab up builds it`)
  const [namespace] = /^(host|c)\d+$|^underlay$/.test(where)
    ? await existingNamespaces([`${name}-${where}`])
    : []
  if (namespace === undefined)
    throw new CommandFailure(
      `lab ${name} has no ${where}; there are host1, c1, … and underlay`,
    )
  const shell = [process.env['SHELL'] ?? '/bin/sh']
  const line = command.length > 0 ? command : shell
  const mounts = where.startsWith('host')
    ? mountsOfHost(join(place.directory, where))
    : []
  return await runInteractively(inside(namespace, withMounts(mounts, line)))
}

/** Runs a command on this terminal; signals of the terminal are the command's. */
async function runInteractively([
  program = '',
  ...args
]: readonly string[]): Promise<number> {
  process.on('SIGINT', () => undefined)
  const child = spawn(program, args, { stdio: 'inherit' })
  return await new Promise((resolve, reject) => {
    child.once('error', error => {
      reject(
        new CommandError(`cannot run ${program}: ${error.message}`, {
          code: 'code' in error ? String(error.code) : undefined,
        }),
      )
    })
    child.once('exit', (exitCode, signal) => {
      resolve(signal === null ? (exitCode ?? 0) : 128 + constants.signals[signal])
    })
  })
}
