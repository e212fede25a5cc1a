import { access, constants } from 'node:fs/promises'
import { join } from 'node:path'
import { CommandFailure } from '../command.js'

/** The programs that a lab runs, with the Debian packages that have them. */
const PROGRAMS = {
  ip: 'iproute2',
  nsenter: 'util-linux',
  setpriv: 'util-linux',
  etcd: 'etcd-server',
  etcdctl: 'etcd-client',
  iptables: 'iptables',
} as const

const SEARCH = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
]

/** Throws CommandFailure that names the first thing this machine lacks, and what to do about it. */
export async function checkRequirements(): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new CommandFailure(
      'the lab makes network namespaces, which only root may: use sudo',
    )
  if (!(await exists('/dev/net/tun', constants.R_OK | constants.W_OK)))
    throw new CommandFailure(
      'there is no /dev/net/tun, which the udp backend needs: modprobe tun',
    )
  const missing: string[] = []
  for (const [program, debianPackage] of Object.entries(PROGRAMS))
    if (!(await isInstalled(program))) missing.push(debianPackage)
  if (missing.length > 0) {
    const packages = [...new Set(missing)].join(' ')
    throw new CommandFailure(`programs are missing: apt-get install ${packages}`)
  }
}

export async function isInstalled(program: string): Promise<boolean> {
  const found = await Promise.all(
    SEARCH.map(directory => exists(join(directory, program), constants.X_OK)),
  )
  return found.includes(true)
}

async function exists(path: string, mode: number): Promise<boolean> {
  return await access(path, mode).then(
    () => true,
    () => false,
  )
}
