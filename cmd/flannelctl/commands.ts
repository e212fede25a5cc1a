import type { Command } from './command.js'

export interface Entry {
  /** One line for the list of commands. */
  readonly summary: string
  /** Loaded when it is asked for: etcd's client alone takes 0.2 s. */
  load(): Promise<Command>
}

/** By the word that names each. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  status: {
    summary: "show how this host's daemon does",
    load: async () => (await import('./status.js')).statusCommand,
  },
  leases: {
    summary: 'list who holds which subnet',
    load: async () => (await import('./leases.js')).leasesCommand,
  },
  lease: {
    summary: 'release, move, revoke or reserve a subnet; what happened to ours',
    load: async () => (await import('./lease.js')).leaseCommand,
  },
  routes: {
    summary: 'list every remote, how packets get there, and what the kernel says of it',
    load: async () => (await import('./routes.js')).routesCommand,
  },
  peers: {
    summary: 'whether packets reach each remote: time, loss, longest packet, trouble',
    load: async () => (await import('./peers.js')).peersCommand,
  },
  watch: {
    summary: 'tell what changes as it happens: leases, and routes of this host',
    load: async () => (await import('./watch.js')).watchCommand,
  },
  drops: {
    summary: 'what the packet path has dropped, why, and who sent it',
    load: async () => (await import('./drops.js')).dropsCommand,
  },
  top: {
    summary: 'what this host and each remote send each other, at the moment',
    load: async () => (await import('./top.js')).topCommand,
  },
  why: {
    summary: 'why packets do not flow between two addresses, and what mends it',
    load: async () => (await import('./why.js')).whyCommand,
  },
  doctor: {
    summary: 'find what keeps packets from flowing on this host, and what mends it',
    load: async () => (await import('./doctor.js')).doctorCommand,
  },
  capture: {
    summary: 'write packets of the overlay into a file for Wireshark and tcpdump',
    load: async () => (await import('./capture.js')).captureCommand,
  },
  report: {
    summary: 'write what a bug report needs into one file, without secrets',
    load: async () => (await import('./report.js')).reportCommand,
  },
  config: {
    summary: 'show, check or store the network configuration',
    load: async () => (await import('./config.js')).configCommand,
  },
  takeover: {
    summary: 'put flanneld in the place of a running flannel, and back',
    load: async () => (await import('./takeover.js')).takeoverCommand,
  },
  import: {
    summary: 'make of a CoreOS cloud-config what flanneld reads today',
    load: async () => (await import('./import.js')).importCommand,
  },
  network: {
    summary: 'how many subnets are used, and how long the rest will last',
    load: async () => (await import('./network.js')).networkCommand,
  },
  'etcd-role': {
    summary: 'print the etcdctl lines that give a daemon what it needs and no more',
    load: async () => (await import('./etcd-role.js')).etcdRoleCommand,
  },
  'docker-opts': {
    summary: 'make the Docker options from the subnet file (mk-docker-opts.sh)',
    load: async () => (await import('./docker-opts.js')).dockerOptsCommand,
  },
  cleanup: {
    summary: 'remove what a stopped daemon has left on this host',
    load: async () => (await import('./cleanup.js')).cleanupCommand,
  },
  lab: {
    summary: 'build a network of hosts on this machine, to try and to learn',
    load: async () => (await import('./lab.js')).labCommand,
  },
}

/** A line for each, aligned. */
export function commandList(): string {
  const width = Math.max(...Object.keys(COMMANDS).map(name => name.length))
  return Object.entries(COMMANDS)
    .map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}\n`)
    .join('')
}
