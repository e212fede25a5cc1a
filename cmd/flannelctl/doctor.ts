import { type CheckResult, runChecks } from '../../lib/diagnosis/check.js'
import { HOST_CHECKS } from '../../lib/diagnosis/host-checks.js'
import { COMMON_FLAGS, EXIT, defineCommand, printJson, refuseWords } from './command.js'
import { readHostFacts } from './read-host-facts.js'

export const doctorCommand = defineCommand({
  help: `
flannelctl doctor [flags]

Looks for what keeps packets from flowing on this host: interface, etcd, clock, daemon,
lease, forwarding, firewall, rp_filter, bridge and MTU of Docker, what others have left.
Names what is wrong and the command that mends it; what comes of it is not named
besides. Says nothing when nothing is wrong. Changes nothing.

  flannelctl doctor
  flannelctl doctor --verbose
  flannelctl doctor --json | jq -r '.checks[] | select(.state == "trouble") | .mend'

Exits with ${EXIT.trouble} when something is wrong.`,
  flags: {
    ...COMMON_FLAGS,
    verbose: {
      type: 'boolean',
      default: 'false',
      describe: 'tell of every check, not only of those that found something',
      environment: false,
    },
  },
  run: async (flags, words) => {
    refuseWords('doctor', words)
    const checks = runChecks(HOST_CHECKS, await readHostFacts(flags))
    if (flags.json) printJson({ checks })
    else process.stdout.write(formatChecks(checks, flags.verbose))
    return checks.some(({ state }) => state === 'trouble') ? EXIT.trouble : EXIT.ok
  },
})

/** A line for each that found something, and below it the command that mends it. */
export function formatChecks(checks: readonly CheckResult[], isVerbose: boolean): string {
  return checks
    .filter(({ state }) => isVerbose || state === 'trouble')
    .map(({ check, state, what, mend }) => {
      const line = `${check}: ${what ?? state}\n`
      return mend === null ? line : `${line}  ${mend}\n`
    })
    .join('')
}
