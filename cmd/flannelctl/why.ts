import { type CheckResult, runChecks } from '../../lib/diagnosis/check.js'
import { HOST_CHECKS } from '../../lib/diagnosis/host-checks.js'
import type { HostFacts } from '../../lib/diagnosis/host-facts.js'
import { PATH_CHECKS } from '../../lib/diagnosis/path-checks.js'
import type { PathFacts } from '../../lib/diagnosis/path-facts.js'
import {
  type Address,
  containsAddress,
  formatAddress,
  parseAddress,
} from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'
import { publicAddressOf } from '../../lib/subnet/subnet-record.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { askPeer } from './ask-peer.js'
import {
  COMMON_FLAGS,
  CommandFailure,
  EXIT,
  defineCommand,
  printJson,
} from './command.js'
import { formatChecks } from './doctor.js'
import { readHostFacts } from './read-host-facts.js'
import { overlayAddressOf, readPathFacts } from './read-path-facts.js'

export const whyCommand = defineCommand({
  help: `
flannelctl why [flags] A B

Says why packets do not flow between two addresses, of containers or of hosts: walks
the way of a packet through this host, which has one of them, and asks the other host
for its half. Looks at lease, route, neighbour, forwarding, rp_filter, firewall, MTU and
masquerading, and pings the other host on the underlay and through the overlay. Names
what is wrong and the command that mends it. Says nothing when nothing is wrong.
Changes nothing.

The other host answers when its flanneld runs with --peer-port, as this one's does.

  flannelctl why 10.5.72.3 10.5.9.2
  flannelctl why --verbose 10.5.72.3 192.168.1.12
  flannelctl why --json 10.5.72.3 10.5.9.2 | jq -r '.checks[] | select(.state == "trouble")'

Exits with ${EXIT.trouble} when something is wrong.`,
  flags: {
    ...COMMON_FLAGS,
    verbose: {
      type: 'boolean',
      default: 'false',
      describe: 'tell of every step, not only of those that found something',
      environment: false,
    },
    'this-host': {
      type: 'boolean',
      default: 'false',
      describe: 'do not ask the other host',
      environment: false,
    },
  },
  run: async (flags, words) => {
    const ends = readEnds(words)
    const host = await readHostFacts(flags, false)
    const facts = await readPathFacts(host, ends)
    const own = facts === undefined ? explainHost(host) : runChecks(PATH_CHECKS, facts)
    const isWell = !hasTrouble(own)
    // What is wrong here would be wrong seen from there, too.
    const other =
      facts?.remote === undefined || !isWell || flags['this-host']
        ? undefined
        : await askOther(facts)
    const checks = [...own, ...(other?.checks ?? [])]
    if (flags.json) printJson({ checks, otherHost: other?.said ?? null })
    else {
      process.stdout.write(formatChecks(checks, flags.verbose))
      if (other?.said !== undefined)
        process.stderr.write(`the other host was not asked for its half: ${other.said}\n`)
      if (facts?.measured !== undefined && 'failure' in facts.measured)
        process.stderr.write(
          `whether the other host answers was not measured: ${facts.measured.failure}\n`,
        )
    }
    return hasTrouble(checks) ? EXIT.trouble : EXIT.ok
  },
})

function readEnds(words: readonly string[]): readonly [Address, Address] {
  const [a, b] = words
  if (a === undefined || b === undefined || words.length !== 2)
    throw new UsageError('why takes two addresses, as 10.5.72.3 10.5.9.2')
  return [readEnd(a), readEnd(b)]
}

function readEnd(text: string): Address {
  try {
    return parseAddress(text)
  } catch {
    throw new UsageError(`${JSON.stringify(text)} is no IP address`)
  }
}

function hasTrouble(checks: readonly CheckResult[]): boolean {
  return checks.some(({ state }) => state === 'trouble')
}

/** A host without a subnet has no way that could be walked. */
function explainHost(host: HostFacts): CheckResult[] {
  const checks = runChecks(HOST_CHECKS, host)
  if (hasTrouble(checks)) return checks
  throw new CommandFailure('this host has no subnet yet; flannelctl status says why')
}

interface OtherHalf {
  readonly checks: readonly CheckResult[]
  /** Why it was not asked. */
  readonly said?: string
}

async function askOther({ daemon, remote, here, there }: PathFacts): Promise<OtherHalf> {
  const underlay = daemon?.underlay
  const range =
    remote && parseSubnetText(remote.subnet).find(each => containsAddress(each, there))
  if (remote === undefined || range === undefined || !underlay?.peerPort)
    return { checks: [], said: 'flanneld runs without --peer-port on this host' }
  const answer = await askPeer({
    host: formatAddress(overlayAddressOf(range, underlay)),
    port: underlay.peerPort,
    from: formatAddress(there),
    to: formatAddress(here),
  })
  if ('failure' in answer) return { checks: [], said: answer.failure }
  const host = publicAddressOf(remote.record)
  return {
    checks: answer.checks.map(each => ({
      ...each,
      check: `${each.check} on ${host}`,
      mend: each.mend && `${each.mend}, on ${host}`,
    })),
  }
}
