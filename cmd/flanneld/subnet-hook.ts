import type { Logger } from 'pino'
import { CommandError, run } from '../../lib/linux/run.js'
import { splitWords } from '../../lib/linux/words.js'
import { type Subnet, formatSubnet } from '../../lib/subnet/subnet-key.js'

/** A restart of Docker with many containers takes its time. */
const TIMEOUT_MS = 120_000

/**
 * Runs --on-subnet-change, without a shell, with FLANNELD_SUBNET and
 * FLANNELD_FORMER_SUBNET in its environment. What becomes of it is told and
 * changes nothing.
 */
export async function runSubnetHook(
  flags: { readonly 'on-subnet-change': string },
  change: { readonly subnet: Subnet; readonly before: Subnet; readonly log: Logger },
): Promise<void> {
  const { subnet, before, log } = change
  const [program, ...args] = splitWords(flags['on-subnet-change'])
  if (program === undefined) return
  try {
    await run(program, args, {
      timeoutMs: TIMEOUT_MS,
      environment: {
        FLANNELD_SUBNET: formatSubnet(subnet),
        FLANNELD_FORMER_SUBNET: formatSubnet(before),
      },
    })
    log.info({ command: flags['on-subnet-change'] }, 'ran the hook of --on-subnet-change')
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    log.error({ reason: error.message }, 'the hook of --on-subnet-change failed')
  }
}
