import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import {
  PATH,
  ScriptError,
  exitCodeOf,
  run,
  start,
  untilInterrupted,
} from './command.mjs'
import { unitsStartedAtBoot, withoutServices } from './services.mjs'

/** Which Debian package brings a program. */
const PACKAGES = {
  bridge: 'iproute2',
  busybox: 'busybox-static',
  'chromium-headless-shell': 'chromium-headless-shell',
  dockerd: 'docker.io',
  etcd: 'etcd-server',
  etcdctl: 'etcd-client',
  ethtool: 'ethtool',
  faketime: 'faketime',
  'g++': 'g++',
  groff: 'groff-base',
  ip: 'iproute2',
  iperf3: 'iperf3',
  iptables: 'iptables',
  jq: 'jq',
  'linux.uml': 'user-mode-linux',
  make: 'make',
  modprobe: 'kmod',
  nft: 'nftables',
  nsenter: 'util-linux',
  openssl: 'openssl',
  ping: 'iputils-ping',
  python3: 'python3',
  setpriv: 'util-linux',
  'systemd-analyze': 'systemd',
  tcpdump: 'tcpdump',
  wg: 'wireguard-tools',
  'wireguard-go': 'wireguard-go',
  zsh: 'zsh',
}

/** What flanneld runs, and its embedded etcd. */
export const DAEMON_PROGRAMS = ['ip', 'bridge', 'iptables', 'nft', 'setpriv', 'etcd']

/** What `flannelctl lab` needs beyond that. */
export const LAB_PROGRAMS = ['etcdctl', 'nsenter']

/** What node-gyp compiles raw-socket with. */
export const COMPILER_PROGRAMS = ['g++', 'make', 'python3']

/** What the tests need beyond that. */
export const TEST_PROGRAMS = [
  'busybox',
  'chromium-headless-shell',
  'dockerd',
  'ethtool',
  'faketime',
  'groff',
  'iperf3',
  'jq',
  'openssl',
  'ping',
  'systemd-analyze',
  'tcpdump',
  'wg',
  'wireguard-go',
  'zsh',
]

/** A kernel that runs as a process, and what loads its modules. */
export const UML_PROGRAMS = ['linux.uml', 'modprobe']

/** The packages of those programs that are not on the path. */
export function missingPackages(programs, path = PATH) {
  const missing = programs.filter(program => !isInstalled(program, path))
  return [...new Set(missing.map(program => PACKAGES[program]))]
}

export function isInstalled(program, path = PATH) {
  return path.split(delimiter).some(directory => {
    try {
      accessSync(join(directory, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/**
 * Installs what is missing for these programs, and leaves the services of the
 * packages off, now and at the next boot. Throws ScriptError where it cannot.
 */
export async function installPrograms(programs) {
  const packages = missingPackages(programs)
  if (packages.length === 0) return
  const names = packages.join(' ')
  if (!isInstalled('apt-get')) {
    throw new ScriptError(
      `these Debian packages, or what they are called here, must be installed: ${names}`,
    )
  }
  if (process.getuid() !== 0) {
    throw new ScriptError(`run it as root, or install first: apt-get install ${names}`)
  }
  console.log(`Installing Debian packages, their services stay off: ${names}`)
  const before = new Set(unitsStartedAtBoot())
  await untilInterrupted(async interrupted => {
    await withoutServices(() => aptInstall(packages, interrupted))
  })
  const units = unitsStartedAtBoot().filter(unit => !before.has(unit))
  if (units.length > 0 && isInstalled('systemctl')) {
    await run('systemctl', ['--quiet', 'disable', ...new Set(units)])
  }
  const absent = programs.filter(program => !isInstalled(program))
  if (absent.length > 0) {
    throw new ScriptError(
      `these programs are not there, though their packages are installed: ${absent.join(' ')}`,
    )
  }
}

/** A new machine has no lists of packages, and old lists name packages that are gone. */
async function aptInstall(packages, interrupted) {
  const install = ['install', '--yes', '--no-install-recommends', ...packages]
  const listed = (await apt(['--simulate', ...install], interrupted)).exitCode === 0
  if (listed && (await apt(install, interrupted)).exitCode === 0) return
  await apt(['update'], interrupted)
  const { exitCode, output } = await apt(install, interrupted)
  if (exitCode === 0) return
  console.error(output)
  throw new ScriptError(`apt-get could not install ${packages.join(' ')}`)
}

/**
 * Runs apt-get out of reach of the terminal's Ctrl-C. Interrupted by us alone,
 * it completes the packages that dpkg has begun with, and then ends.
 */
async function apt(args, interrupted) {
  if (interrupted.aborted) throw new ScriptError('interrupted')
  const child = start('apt-get', ['-qq', '-o', 'DPkg::Lock::Timeout=120', ...args], {
    env: { DEBIAN_FRONTEND: 'noninteractive', NEEDRESTART_MODE: 'l', LC_ALL: 'C' },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const output = []
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', text => output.push(text))
  }
  interrupted.addEventListener('abort', () => child.kill('SIGINT'), { once: true })
  const exitCode = await exitCodeOf(child)
  if (interrupted.aborted) throw new ScriptError('interrupted')
  return { exitCode, output: output.join('') }
}
