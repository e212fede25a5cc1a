import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { COMMON_FLAGS, EXIT, defineCommand, printJson } from './command.js'

/** What is safe in a line that somebody pastes into a shell. */
const NAME = /^[A-Za-z0-9._-]+$/

export const etcdRoleCommand = defineCommand({
  help: `
flannelctl etcd-role [ROLE]

Prints the etcdctl lines that make a role (flannel, unless named) with what a
daemon needs and no more, and a user who has it. They are printed, not run.

  flannelctl etcd-role | sh
  flannelctl etcd-role flannel-blue --etcd-prefix=/blue/network`,
  flags: COMMON_FLAGS,
  run: async (flags, [role = 'flannel', ...rest]) => {
    if (rest.length > 0 || !NAME.test(role))
      throw new UsageError('etcd-role takes one name of letters, digits, dots, _ and -')
    const lines = roleLines(cleanPrefix(flags['etcd-prefix']), role)
    if (flags.json) printJson({ lines })
    else process.stdout.write(lines.map(line => `${line}\n`).join(''))
    return await Promise.resolve(EXIT.ok)
  },
})

/**
 * What lies where is told in docs/registry-schema.md. The daemon reads the whole
 * prefix, and writes its lease, the claims of dual stack, the mark of who held a
 * subnet last, and its answer to an order.
 */
function roleLines(prefix: string, role: string): string[] {
  const quoted = `'${prefix.replaceAll("'", String.raw`'\''`)}`
  const grant = (kind: string, folder: string): string =>
    `etcdctl role grant-permission ${role} --prefix=true ${kind} ${quoted}/${folder}'`
  return [
    `etcdctl role add ${role}`,
    grant('read', ''),
    ...['subnets/', 'claims/', 'last-holders/', 'orders/'].map(folder =>
      grant('readwrite', folder),
    ),
    `etcdctl user add ${role}`,
    `etcdctl user grant-role ${role} ${role}`,
  ]
}
