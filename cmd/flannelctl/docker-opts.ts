import { writeFileSync } from 'node:fs'
import { run } from '../../lib/linux/run.js'
import { listRoutes } from '../../lib/linux/ip-routes.js'
import { formatPrefix, parsePrefix } from '../../lib/subnet/prefix.js'
import { parseVariables } from '../../lib/subnet/subnet-env.js'
import { readFileIfAny } from '../flanneld/files.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { type Command, CommandFailure, EXIT } from './command.js'

const USAGE = `flannelctl docker-opts [-f FLANNEL-ENV-FILE] [-d DOCKER-ENV-FILE] [-i] [-c] [-m] [-k COMBINED-KEY] [--engine auto|VERSION]

Generates options for the Docker daemon from the subnet file of flanneld, as
flannel's mk-docker-opts.sh does.

  -f FILE        subnet file to read (default $FLANNELD_SUBNET_FILE, as flanneld's,
                 or /run/flannel/subnet.env)
  -d FILE        file to write (default /run/docker_opts.env), - for standard output
  -i             each option as a variable of its own, DOCKER_OPT_*
  -c             all options in one variable
                 (neither -i nor -c: both)
  -k KEY         name of the one variable (default DOCKER_OPTS)
  -m             leave out --ip-masq
  --engine auto  also what the installed engine needs to let packets from other
                 hosts in: --allow-direct-routing from Docker 28.2 on
  --engine 28.2  the same for an engine of that version

  flannelctl docker-opts -d /run/flannel/docker.env
  flannelctl docker-opts --engine auto -c -d -
`

export const dockerOptsCommand: Command = {
  help: USAGE.trim(),
  // getopts, as flannel's script has it.
  flags: {},
  run: async args => {
    const options = parseOptions(args)
    if (options === undefined) {
      process.stderr.write(USAGE)
      return EXIT.failure
    }
    const flannel = parseVariables((await readFileIfAny(options.flannelFile)) ?? '')
    const own = formatOptions(flannel, options)
    if (options.engine !== 'none') Object.assign(own, await engineOptions(options.engine))
    const text = formatFile(own, options, process.env)
    if (options.dockerFile === '-') process.stdout.write(text)
    else writeFileSync(options.dockerFile, text)
    await refuseRoutedSubnet(flannel.get('FLANNEL_SUBNET'))
    return EXIT.ok
  },
}

interface DockerOptions {
  flannelFile: string
  dockerFile: string
  key: string
  individual: boolean
  combined: boolean
  masquerade: boolean
  /** auto, none or a version. */
  engine: string
}

/** getopts of "f:d:icmk:?h", letters together or with their value attached; and --engine. Undefined for -h. */
function parseOptions(args: readonly string[]): DockerOptions | undefined {
  const options: DockerOptions = {
    // In the unit of flanneld, what flanneld writes.
    flannelFile: process.env['FLANNELD_SUBNET_FILE'] ?? '/run/flannel/subnet.env',
    dockerFile: '/run/docker_opts.env',
    key: 'DOCKER_OPTS',
    individual: false,
    combined: false,
    masquerade: true,
    engine: 'none',
  }
  const rest = [...args]
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (/^--?(help|h|\?)$/.test(word)) return undefined
    const engine = /^--engine(?:=(.*))?$/.exec(word)
    if (engine !== null) {
      options.engine = readEngine(engine[1] ?? rest.shift())
      continue
    }
    if (!/^-[a-z]/.test(word)) throw new UsageError(`docker-opts: unexpected ${word}`)
    applyLetters(word.slice(1), options, rest)
  }
  if (!options.individual && !options.combined) {
    return { ...options, individual: true, combined: true }
  }
  return options
}

function readEngine(value: string | undefined): string {
  if (value !== undefined && /^(auto|none|\d+\.\d+\S*)$/.test(value)) return value
  throw new UsageError('docker-opts: --engine takes auto, none or a version such as 28.2')
}

function applyLetters(letters: string, options: DockerOptions, rest: string[]): void {
  const [letter = '', value] = [letters[0], letters.slice(1)]
  const takesValue = 'fdk'.includes(letter)
  if (takesValue) {
    const given = value === '' ? rest.shift() : value
    if (given === undefined) throw new UsageError(`docker-opts: -${letter} needs a value`)
    if (letter === 'f') options.flannelFile = given
    else if (letter === 'd') options.dockerFile = given
    else options.key = checkKey(given)
    return
  }
  if (letter === 'i') options.individual = true
  else if (letter === 'c') options.combined = true
  else if (letter === 'm') options.masquerade = false
  else throw new UsageError(`docker-opts: unknown option -${letter}; -h lists them`)
  if (value !== '') applyLetters(value, options, rest)
}

function checkKey(key: string): string {
  if (/^[A-Za-z_]\w*$/.test(key)) return key
  throw new UsageError(`docker-opts: -k ${key} is not a name of a variable`)
}

function formatOptions(
  flannel: ReadonlyMap<string, string>,
  { masquerade }: DockerOptions,
): Record<string, string> {
  const subnet = flannel.get('FLANNEL_SUBNET') ?? ''
  const mtu = flannel.get('FLANNEL_MTU') ?? ''
  const ipMasq = flannel.get('FLANNEL_IPMASQ') ?? ''
  if (masquerade && !['', 'true', 'false'].includes(ipMasq)) {
    throw new CommandFailure(`Invalid value of FLANNEL_IPMASQ: ${ipMasq}`)
  }
  return {
    ...(subnet !== '' && { DOCKER_OPT_BIP: `--bip=${subnet}` }),
    // Whoever masquerades must be one: flanneld, or else Docker.
    ...(masquerade &&
      ipMasq !== '' && { DOCKER_OPT_IPMASQ: `--ip-masq=${ipMasq === 'false'}` }),
    ...(mtu !== '' && { DOCKER_OPT_MTU: `--mtu=${mtu}` }),
  }
}

/** The script's output, blank for blank; other DOCKER_OPT_* variables of the environment come along. */
function formatFile(
  own: Readonly<Record<string, string>>,
  { individual, combined, key }: DockerOptions,
  environment: NodeJS.ProcessEnv,
): string {
  const inherited = Object.entries(environment).filter(([name]) =>
    /^DOCKER_OPT_[A-Z_]+$/.test(name),
  )
  const all = Object.entries({ ...Object.fromEntries(inherited), ...own }).sort(
    ([a], [b]) => (a < b ? -1 : 1),
  )
  const lines = individual ? all.map(([name, value]) => `${name}="${value ?? ''}"`) : []
  if (combined) {
    const before = environment[key]
    const values = all.map(([, value]) => ` ${value ?? ''}`)
    lines.push(`${key}="${before ? `${before} ` : ''}${values.join('')}"`)
  }
  return lines.map(line => `${line}\n`).join('')
}

/**
 * Since 28.0 the engine drops packets that come to a container's own address
 * from other hosts (moby/moby#49792); 28.2 brought the option that allows them.
 */
async function engineOptions(engine: string): Promise<Record<string, string>> {
  const version = readVersion(engine === 'auto' ? await askEngine() : engine)
  if (version === undefined) {
    process.stderr.write('no Docker engine found; no options added for it\n')
    return {}
  }
  const [major, minor] = version
  if (major < 28) return {}
  if (major === 28 && minor < 2) {
    process.stderr.write(
      `Docker ${major}.${minor} drops packets from other hosts and has no option against it: update to 28.2, or set DOCKER_INSECURE_NO_IPTABLES_RAW=1 in its environment\n`,
    )
    return {}
  }
  return { DOCKER_OPT_ALLOW_DIRECT_ROUTING: '--allow-direct-routing=true' }
}

/** `Docker version 28.2.2, build …`; nothing when there is no engine. */
async function askEngine(): Promise<string> {
  try {
    return await run('dockerd', ['--version'])
  } catch {
    return ''
  }
}

function readVersion(text: string): [major: number, minor: number] | undefined {
  const match = /(\d+)\.(\d+)/.exec(text)
  return match === null ? undefined : [Number(match[1]), Number(match[2])]
}

/** flannel's check for another host's route to our subnet, from when two hosts held one. */
async function refuseRoutedSubnet(subnet: string | undefined): Promise<void> {
  const prefix = subnet === undefined ? undefined : tryParse(subnet)
  if (prefix === undefined) return
  const routes = await listRoutes(4)
  const conflict = routes.find(
    ({ destination, nextHops }) =>
      destination === prefix && nextHops.some(({ gateway }) => gateway !== undefined),
  )
  if (conflict === undefined) return
  const gateway = conflict.nextHops[0]?.gateway ?? ''
  throw new CommandFailure(
    `subnet ${prefix} is routed via ${gateway}: another host seems to hold it; is the subnet file of an earlier run?`,
  )
}

function tryParse(text: string): string | undefined {
  try {
    return formatPrefix(parsePrefix(text))
  } catch {
    return undefined
  }
}
