import { join } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import { checkBackend } from '../../lib/backend/backends.js'
import { BackendError } from '../../lib/backend/errors.js'
import { LeaseTable } from '../../lib/subnet/lease-table.js'
import {
  type NetworkConfig,
  familyConfig,
  formatNetworkConfig,
  isSubnetOf,
  parseNetworkConfig,
} from '../../lib/subnet/network-config.js'
import type { Entry, Registry } from '../../lib/subnet/registry.js'
import {
  configKey,
  formatSubnet,
  prefixesOf,
  subnetsPrefix,
} from '../../lib/subnet/subnet-key.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { readEtcdOptions } from '../flanneld/etcd-options.js'
import { readHeldSubnets } from '../flanneld/journal.js'
import { networkDirectory, placesOf } from '../flanneld/places.js'
import { checkOverlaps } from '../flanneld/this-host.js'
import {
  CommandFailure,
  EXIT,
  COMMON_FLAGS,
  defineCommand,
  printJson,
} from './command.js'
import { type StatusFlags, tellDaemon } from './daemon-status.js'
import { withRegistry } from './etcd.js'
import { readLeaseCache } from './own-lease.js'

const FLAGS = {
  ...COMMON_FLAGS,
  force: {
    type: 'boolean',
    default: 'false',
    describe:
      'set: store it although hosts of this build or present leases do not fit it',
    environment: false,
  },
} as const

export const configCommand = defineCommand({
  help: `
flannelctl config get
flannelctl config check [JSON|-]
flannelctl config set JSON|-
flannelctl config apply

get    prints the stored configuration, and what follows from it
check  says whether a configuration is usable: the given one, the one on
       standard input (-), or the stored one
set    checks a configuration and stores it. Running daemons keep to the one
       that they started with
apply  makes the daemon of this host take up the stored configuration, as a
       restart does

  flannelctl config set '{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}'
  flannelctl config check - < network.json

Exits with ${EXIT.failure} when the configuration is not usable.`,
  flags: FLAGS,
  run: async (flags, [action, given, ...rest]) => {
    if (rest.length > 0)
      throw new UsageError('config takes one JSON text; put it in quotes')
    if (action === 'check') {
      const text = given === undefined ? await readStored(flags) : await readGiven(given)
      const config = parse(text)
      await warnOfThisHost(config, flags)
      show(config, text, flags.json)
      return EXIT.ok
    }
    if (action === 'get' && given === undefined) {
      const text = await readStored(flags)
      if (!flags.json) process.stdout.write(`${text.trimEnd()}\n\n`)
      show(parseNetworkConfig(text), text, flags.json)
      return EXIT.ok
    }
    if (action === 'apply' && given === undefined) {
      parse(await readStored(flags))
      await tellDaemon(flags, 'apply-config')
      return EXIT.ok
    }
    if (action === 'set' && given !== undefined) {
      const text = await readGiven(given)
      const config = flags.force ? parseNetworkConfig(text) : parse(text)
      await warnOfThisHost(config, flags)
      await withRegistry(flags, (registry, prefix) =>
        store(registry, {
          key: configKey(prefix),
          prefix,
          text,
          config,
          force: flags.force,
        }),
      )
      show(config, text, flags.json)
      return EXIT.ok
    }
    throw new UsageError(
      'usage: flannelctl config get | check [JSON|-] | set JSON|- | apply',
    )
  },
})

async function readGiven(word: string): Promise<string> {
  return word === '-' ? await readAll(process.stdin) : word
}

async function readStored(flags: Parameters<typeof withRegistry>[0]): Promise<string> {
  return await withRegistry(flags, async (registry, prefix) => {
    const { entry } = await registry.get(configKey(prefix))
    if (entry !== undefined) return entry.value
    throw new CommandFailure(
      `etcd has no key ${configKey(prefix)}; store one: flannelctl config set '{"Network":"10.5.0.0/16"}'`,
    )
  })
}

/** Reads a configuration and checks that hosts of this build can run it. */
function parse(text: string): NetworkConfig {
  const config = parseNetworkConfig(text)
  try {
    checkBackend(config)
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    throw new CommandFailure(`network configuration: ${error.message}`, { cause: error })
  }
  return config
}

/** The network of a cluster must be free on every host; on this one we can look. */
async function warnOfThisHost(
  config: NetworkConfig,
  flags: StatusFlags & Parameters<typeof withRegistry>[0],
): Promise<void> {
  const networks = config.families.map(({ network }) => network)
  const places = placesOf(flags)
  const cache = await readLeaseCache(flags)
  try {
    await checkOverlaps({
      config,
      formerSubnets: await readHeldSubnets(places.journalFile, cache?.held.subnet),
      stateDir: join(places.stateDir, networkDirectory(networks)),
      endpoints: readEtcdOptions(flags).endpoints,
    })
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    process.stderr.write(`warning: on this host, ${error.message}\n`)
  }
}

interface Wish {
  readonly key: string
  readonly prefix: string
  readonly text: string
  readonly config: NetworkConfig
  readonly force: boolean
}

/** Stores the configuration unless it changed since it was looked at, or strands a lease. */
async function store(registry: Registry, wish: Wish): Promise<void> {
  const { key, text, force } = wish
  const { entry } = await registry.get(key)
  if (entry?.value === text.trim()) return
  const stranded = await findStranded(registry, wish)
  if (stranded.length > 0 && !force) {
    throw new CommandFailure(
      `${stranded.length} leases do not fit this configuration (${stranded.slice(0, 3).join(', ')} …): their hosts change subnets when they restart; --force stores it all the same`,
    )
  }
  const { succeeded } = await registry.commit(
    [{ key, modRevision: entry?.modRevision ?? 0n }],
    [{ kind: 'put', key, value: text.trim() }],
  )
  if (!succeeded) {
    throw new CommandFailure(
      `${key} was changed by somebody else meanwhile; look at it again`,
    )
  }
  process.stderr.write(`${describeChange(key, entry)}\n`)
}

function describeChange(key: string, before: Entry | undefined): string {
  if (before === undefined) return `stored ${key}`
  return `stored ${key}; before: ${before.value}\na daemon takes it up with flannelctl config apply on its host, or when it is restarted`
}

async function findStranded(
  registry: Registry,
  { prefix, config }: Wish,
): Promise<string[]> {
  const table = new LeaseTable()
  table.replace(await registry.list(subnetsPrefix(prefix)))
  return table
    .records()
    .filter(({ subnet }) =>
      prefixesOf(subnet).some(
        half => !config.families.some(family => isSubnetOf(family, half)),
      ),
    )
    .map(({ subnet }) => formatSubnet(subnet))
}

/** What the configuration comes to, and why. */
function show(config: NetworkConfig, text: string, json: boolean): void {
  const { derived, unknownKeys } = config
  const effective = JSON.parse(formatNetworkConfig(config)) as unknown
  if (json) {
    printJson({ stored: text.trim(), effective, derived, unknownKeys })
    return
  }
  process.stdout.write(`means ${JSON.stringify(effective, null, 2)}\n`)
  if (derived.length > 0) process.stdout.write('\n')
  for (const line of derived) process.stdout.write(`${line}\n`)
  if (familyConfig(config, 4) === undefined) {
    process.stderr.write(
      'note: IPv6 alone: every host must run this flanneld, flannel has no such networks in etcd\n',
    )
  }
  if (unknownKeys.length > 0) {
    process.stderr.write(`warning: keys that mean nothing: ${unknownKeys.join(', ')}\n`)
  }
}
