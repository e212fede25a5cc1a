import { ensureBlackhole } from '../../lib/backend/blackhole.js'
import { BackendError } from '../../lib/backend/errors.js'
import type { FirewallFamily } from '../../lib/backend/firewall-rules.js'
import { Firewall, removeRules } from '../../lib/backend/firewall.js'
import { runAll } from '../../lib/subnet/loops.js'
import type { NetworkConfig } from '../../lib/subnet/network-config.js'
import { samePrefix } from '../../lib/subnet/prefix.js'
import type { PreviousSubnetEnv } from '../../lib/subnet/subnet-env.js'
import { type Subnet, prefixesOf, subnetPrefix } from '../../lib/subnet/subnet-key.js'
import type { DaemonContext } from './daemon.js'

export interface FirewallPart {
  run(signal: AbortSignal): Promise<void>
}

/**
 * Puts the rules in force that the flags ask for, and keeps them so. They stay
 * when the daemon stops, as flannel's do. Masquerading that cannot be set up is
 * fatal; without the forward rules the network may still work, so that is told
 * and tried again.
 */
export async function startFirewall(
  { flags, state, clock, log }: DaemonContext,
  node: {
    readonly config: NetworkConfig
    readonly subnet: Subnet
    /** What the subnet file said when this daemon started. */
    readonly former: PreviousSubnetEnv | undefined
  },
): Promise<FirewallPart> {
  const intervalMs = flags['iptables-resync'] * 1000
  const onTrouble = (trouble: string | undefined): void => {
    state.report('firewall', trouble)
  }
  const onNote = (note: string | undefined): void => {
    state.note('docker', note)
  }
  const leftovers = await troubleOf(() => removeFormer(node))
  if (leftovers !== undefined)
    log.warn({ reason: leftovers }, 'rules of a former network stay')
  const firewall = openFirewall(flags, node)
  try {
    await firewall.ensure()
  } catch (error) {
    if (!(error instanceof BackendError) || flags['ip-masq']) throw error
    log.error({ reason: error.message }, 'cannot install the forward rules; trying again')
    onTrouble(error.message)
  }
  if (flags['ip-blackhole-route']) await keepBlackholes(node.subnet)
  const reportBlackhole = (trouble: string | undefined): void => {
    state.report('blackhole route', trouble)
  }
  return {
    run: async signal => {
      await runAll(signal, [
        each => firewall.run({ intervalMs, clock, log, onTrouble, onNote }, each),
        async each => {
          if (!flags['ip-blackhole-route']) return
          for (;;) {
            await clock.sleep(intervalMs, each)
            if (each.aborted) return
            reportBlackhole(await troubleOf(() => keepBlackholes(node.subnet)))
          }
        },
      ])
    },
  }
}

/** Why something could not be done to the host; undefined when it was. */
async function troubleOf(act: () => Promise<void>): Promise<string | undefined> {
  try {
    await act()
    return undefined
  } catch (error) {
    if (error instanceof BackendError) return error.message
    throw error
  }
}

async function keepBlackholes(subnet: Subnet): Promise<void> {
  for (const prefix of prefixesOf(subnet)) await ensureBlackhole(prefix)
}

/** Rules that an earlier run made for another network match nothing of ours any more. */
async function removeFormer({
  config,
  former,
}: Parameters<typeof startFirewall>[1]): Promise<void> {
  const families = (former?.networks ?? []).flatMap(network => {
    const subnet = former && subnetPrefix(former.subnet, network.family)
    const isPresent = config.families.some(family => samePrefix(family.network, network))
    return subnet === undefined || isPresent ? [] : [{ network, subnet }]
  })
  if (families.length === 0) return
  await removeRules(families)
}

function familiesOf(config: NetworkConfig, subnet: Subnet): FirewallFamily[] {
  return config.families.flatMap(({ network }) => {
    const own = subnetPrefix(subnet, network.family)
    return own === undefined ? [] : [{ network, subnet: own }]
  })
}

function openFirewall(
  flags: DaemonContext['flags'],
  { config, subnet }: { readonly config: NetworkConfig; readonly subnet: Subnet },
): Firewall {
  return new Firewall({
    families: familiesOf(config, subnet),
    isNft: config.enableNfTables,
    forward: flags['iptables-forward-rules'],
    masquerade: flags['ip-masq'],
    randomFully: !flags['ip-masq-fully-random-disable'],
  })
}
