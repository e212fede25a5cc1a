import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { hasBlackhole, removeBlackhole } from '../../lib/backend/blackhole.js'
import { findRules, removeRules } from '../../lib/backend/firewall.js'
import { deletionOf, findLeft } from '../../lib/backend/kernel/left.js'
import {
  hasVerification,
  removeVerification,
  verificationTable,
} from '../../lib/backend/kernel/verification.js'
import { endLeftPaths, findLeftPaths } from '../../lib/backend/udp/packet-path.js'
import { batch } from '../../lib/linux/ip-batch.js'
import { bootTimeMs } from '../../lib/linux/libc.js'
import { systemClock } from '../../lib/subnet/clock.js'
import { type PreviousSubnetEnv, parseSubnetEnv } from '../../lib/subnet/subnet-env.js'
import { prefixesOf, subnetPrefix } from '../../lib/subnet/subnet-key.js'
import { readFileIfAny } from '../flanneld/files.js'
import { openLogger } from '../flanneld/logger.js'
import {
  type Places,
  lockPlaces,
  lockSubnetFile,
  placesOf,
  subnetFileLock,
} from '../flanneld/places.js'
import type { Flags } from '../flanneld/parse-flags.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
  refuseWords,
} from './command.js'

const FLAGS = {
  ...COMMON_FLAGS,
  'dry-run': {
    type: 'boolean',
    default: 'false',
    describe: 'say what would be removed, and remove nothing',
    environment: false,
  },
  state: {
    type: 'boolean',
    default: 'false',
    describe: 'remove --state-dir too: host id, lease cache, name of the device',
    environment: false,
  },
} as const

type CleanupFlags = Flags<typeof FLAGS>

/** Something of ours on this host, and how to be rid of it. */
interface Leftover {
  readonly what: string
  /** A place that tells where the rest is: it stays while something of that does. */
  readonly isMemory?: boolean
  readonly remove: () => Promise<void>
}

export const cleanupCommand = defineCommand({
  help: `
flannelctl cleanup [--dry-run] [--state] [flags]

Removes from this host what flanneld made and leaves when it is stopped: the
packet path, devices, routes, firewall rules, the subnet file, sockets. What another
daemon or program made stays; so does the lease in etcd, by which this host gets its
subnet again (flannelctl lease release gives it up).

  systemctl stop flanneld && flannelctl cleanup
  flannelctl cleanup --dry-run

Exits with 1 while the daemon runs, and when something could not be removed.`,
  flags: FLAGS,
  run: async (flags, words) => {
    refuseWords('cleanup', words)
    const places = placesOf(flags)
    const lock = existsSync(places.runDir)
      ? lockPlaces(places)
      : { release: () => undefined }
    if (lock === undefined)
      throw new CommandFailure('flanneld runs on this host; stop it first')
    try {
      const leftovers = await findLeftovers(flags, places)
      const isDry = flags['dry-run']
      const { gone, failures } = isDry
        ? { gone: leftovers, failures: [] }
        : await removeAll(leftovers)
      if (flags.json)
        printJson({ removed: !isDry, found: gone.map(({ what }) => what), failures })
      else if (leftovers.length === 0)
        process.stdout.write('nothing of flanneld is left here\n')
      else tell(gone, isDry)
      for (const failure of failures) process.stderr.write(`flannelctl: ${failure}\n`)
      return failures.length === 0 ? EXIT.ok : EXIT.failure
    } finally {
      lock.release()
    }
  },
})

function tell(leftovers: readonly Leftover[], isDry: boolean): void {
  for (const { what } of leftovers)
    process.stdout.write(`${isDry ? 'would remove' : 'removed'} ${what}\n`)
}

/** Tries each, whatever becomes of the others. */
async function removeAll(
  leftovers: readonly Leftover[],
): Promise<{ readonly gone: readonly Leftover[]; readonly failures: readonly string[] }> {
  const gone: Leftover[] = []
  const failures: string[] = []
  for (const leftover of leftovers) {
    const { what, remove, isMemory = false } = leftover
    if (isMemory && failures.length > 0) continue
    try {
      await remove()
      gone.push(leftover)
    } catch (error) {
      failures.push(`cannot remove ${what}: ${(error as Error).message}`)
    }
  }
  return { gone, failures }
}

/** In the order in which they go: what forwards first, what tells of it last. */
async function findLeftovers(flags: CleanupFlags, places: Places): Promise<Leftover[]> {
  const file = flags['subnet-file']
  // Another daemon's file tells of that one's network.
  const text = isOthers(flags) ? undefined : await readFileIfAny(file)
  const former = text === undefined ? undefined : parseSubnetEnv(text)
  return [
    ...(await leftPaths(places)),
    ...(await leftInKernel(places, former)),
    ...(await leftVerification(places)),
    ...(former === undefined ? [] : await leftRules(former)),
    ...(former === undefined ? [] : await leftBlackholes(former)),
    ...leftFiles(flags, places),
  ]
}

async function leftPaths({ runDir }: Places): Promise<Leftover[]> {
  if (!existsSync(runDir)) return []
  const pids = await findLeftPaths({ runDir })
  if (pids.length === 0) return []
  const context = {
    runDir,
    clock: systemClock(bootTimeMs),
    log: openLogger('error', 'text'),
  }
  return [
    {
      what: `the packet path (process ${pids.join(', ')}) with its device`,
      remove: () => endLeftPaths(context),
    },
  ]
}

async function leftInKernel(
  { runDir }: Places,
  former: PreviousSubnetEnv | undefined,
): Promise<Leftover[]> {
  const { links, routes } = await findLeft({ runDir }, former?.networks ?? [])
  return [
    ...(routes.length === 0
      ? []
      : [
          {
            what: `${routes.length} routes to other hosts`,
            remove: () => batch(routes.map(({ remove }) => remove)),
          },
        ]),
    ...links.map(link => ({
      what: `the device ${link}`,
      remove: () => batch([deletionOf(link)]),
    })),
  ]
}

async function leftVerification({ runDir }: Places): Promise<Leftover[]> {
  if (!(await hasVerification({ runDir }))) return []
  const { family, name } = verificationTable({ runDir })
  return [
    {
      what: `our rules in nft ${family} ${name}`,
      remove: () => removeVerification({ runDir }),
    },
  ]
}

async function leftRules({ networks, subnet }: PreviousSubnetEnv): Promise<Leftover[]> {
  const families = networks.flatMap(network => {
    const own = subnetPrefix(subnet, network.family)
    return own === undefined ? [] : [{ network, subnet: own }]
  })
  const found = await findRules(families)
  return found.length === 0
    ? []
    : [
        {
          what: `our rules in ${found.join(', ')}`,
          remove: () => removeRules(families),
        },
      ]
}

async function leftBlackholes({ subnet }: PreviousSubnetEnv): Promise<Leftover[]> {
  const found: Leftover[] = []
  for (const prefix of prefixesOf(subnet))
    if (await hasBlackhole(prefix))
      found.push({
        what: 'the blackhole route of the subnet',
        remove: () => removeBlackhole(prefix),
      })
  return found
}

/** Whether a daemon that runs, of another etcd prefix, writes the subnet file. */
function isOthers(flags: CleanupFlags): boolean {
  if (!existsSync(subnetFileLock(flags))) return false
  const lock = lockSubnetFile(flags)
  lock?.release()
  return lock === undefined
}

function leftFiles(flags: CleanupFlags, { runDir, stateDir }: Places): Leftover[] {
  const paths = [
    ...(isOthers(flags) ? [] : [flags['subnet-file'], subnetFileLock(flags)]),
    runDir,
    ...(flags.state ? [stateDir] : []),
  ]
  return paths
    .filter(path => existsSync(path))
    .map(path => ({
      what: path,
      isMemory: true,
      remove: () => rm(path, { recursive: true }),
    }))
}
