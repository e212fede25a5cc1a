#!/usr/bin/env node
import { BackendError } from '../lib/backend/errors.js'
import { SubnetError } from '../lib/subnet/errors.js'
import { type Command, CommandFailure, EXIT } from './flannelctl/command.js'
import { describeUnknown } from './flanneld/edit-distance.js'
import { FileError } from './flanneld/files.js'
import { UsageError } from './flanneld/parse-flags.js'
import { VERSION } from './flanneld/version.js'

interface Entry {
  /** One line for the list of commands. */
  readonly summary: string
  /** Loaded when it is asked for: etcd's client alone takes 0.2 s. */
  load(): Promise<Command>
}

const COMMANDS: Readonly<Record<string, Entry>> = {
  status: {
    summary: "show how this host's daemon does",
    load: async () => (await import('./flannelctl/status.js')).statusCommand,
  },
  leases: {
    summary: 'list who holds which subnet',
    load: async () => (await import('./flannelctl/leases.js')).leasesCommand,
  },
  lease: {
    summary: 'release, move, revoke or reserve a subnet; what happened to ours',
    load: async () => (await import('./flannelctl/lease.js')).leaseCommand,
  },
  routes: {
    summary: 'list every remote, how packets get there, and what the kernel says of it',
    load: async () => (await import('./flannelctl/routes.js')).routesCommand,
  },
  peers: {
    summary: 'whether packets reach each remote: time, loss, longest packet, trouble',
    load: async () => (await import('./flannelctl/peers.js')).peersCommand,
  },
  watch: {
    summary: 'tell what changes as it happens: leases, and routes of this host',
    load: async () => (await import('./flannelctl/watch.js')).watchCommand,
  },
  drops: {
    summary: 'what the packet path has dropped, why, and who sent it',
    load: async () => (await import('./flannelctl/drops.js')).dropsCommand,
  },
  top: {
    summary: 'what this host and each remote send each other, at the moment',
    load: async () => (await import('./flannelctl/top.js')).topCommand,
  },
  why: {
    summary: 'why packets do not flow between two addresses, and what mends it',
    load: async () => (await import('./flannelctl/why.js')).whyCommand,
  },
  doctor: {
    summary: 'find what keeps packets from flowing on this host, and what mends it',
    load: async () => (await import('./flannelctl/doctor.js')).doctorCommand,
  },
  capture: {
    summary: 'write packets of the overlay into a file for Wireshark and tcpdump',
    load: async () => (await import('./flannelctl/capture.js')).captureCommand,
  },
  report: {
    summary: 'write what a bug report needs into one file, without secrets',
    load: async () => (await import('./flannelctl/report.js')).reportCommand,
  },
  config: {
    summary: 'show, check or store the network configuration',
    load: async () => (await import('./flannelctl/config.js')).configCommand,
  },
  network: {
    summary: 'how many subnets are used, and how long the rest will last',
    load: async () => (await import('./flannelctl/network.js')).networkCommand,
  },
  'etcd-role': {
    summary: 'print the etcdctl lines that give a daemon what it needs and no more',
    load: async () => (await import('./flannelctl/etcd-role.js')).etcdRoleCommand,
  },
  'docker-opts': {
    summary: 'make the Docker options from the subnet file (mk-docker-opts.sh)',
    load: async () => (await import('./flannelctl/docker-opts.js')).dockerOptsCommand,
  },
  cleanup: {
    summary: 'remove what a stopped daemon has left on this host',
    load: async () => (await import('./flannelctl/cleanup.js')).cleanupCommand,
  },
  lab: {
    summary: 'build a network of hosts on this machine, to try and to learn',
    load: async () => (await import('./flannelctl/lab.js')).labCommand,
  },
}

// Node's warnings about what libraries call are for developers, and tests show them.
process.noDeprecation = true
process.exit(await main(process.argv.slice(2)))

async function main([name, ...args]: readonly string[]): Promise<number> {
  // A reader such as head(1) that has seen enough is no failure of ours.
  process.stdout.on('error', () => {
    process.exit(EXIT.ok)
  })
  if (name === undefined || /^--?(h|help)$/.test(name) || name === 'help') {
    process.stdout.write(helpText())
    return name === undefined ? EXIT.usage : EXIT.ok
  }
  if (/^--?version$/.test(name)) {
    process.stdout.write(`${VERSION}\n`)
    return EXIT.ok
  }
  try {
    const command = await find(name).load()
    return await command.run(args)
  } catch (error) {
    return report(error)
  }
}

function find(name: string): Entry {
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (entry !== undefined) return entry
  throw new UsageError(describeUnknown('command', name, Object.keys(COMMANDS)))
}

/** Prints what went wrong in one line. A stack is for mistakes of ours alone. */
function report(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`flannelctl: ${error.message}\n`)
    return EXIT.usage
  }
  if (
    error instanceof CommandFailure ||
    error instanceof SubnetError ||
    error instanceof BackendError ||
    error instanceof FileError ||
    // The system's own errors: a file that may not be read.
    (error instanceof Error && 'errno' in error)
  ) {
    process.stderr.write(`flannelctl: ${error.message}\n`)
    return EXIT.failure
  }
  throw error
}

function helpText(): string {
  const width = Math.max(...Object.keys(COMMANDS).map(name => name.length))
  const list = Object.entries(COMMANDS).map(
    ([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}\n`,
  )
  return `flannelctl COMMAND [flags] [arguments]

Looks at this host's part in the overlay network, and at the network in etcd.

${list.join('')}
flannelctl COMMAND --help tells more. etcd is found by flanneld's flags and
FLANNELD_* variables.

Exit codes: ${EXIT.ok} fine, ${EXIT.failure} failed, ${EXIT.usage} wrong usage, ${EXIT.trouble} answered, and the answer is trouble.
`
}
