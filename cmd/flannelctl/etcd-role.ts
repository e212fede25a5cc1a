import { quoteWord } from '../../lib/linux/words.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { UsageError } from '../flanneld/parse-flags.js'
import { COMMON_FLAGS, EXIT, defineCommand, printJson } from './command.js'

/** Where the password is if nobody says. */
const DEFAULT_PASSWORD_FILE = '/etc/flannel/etcd-password'

/** What is safe in a line that somebody pastes into a shell. */
const NAME = /^[A-Za-z0-9._-]+$/

export const etcdRoleCommand = defineCommand({
  help: `
flannelctl etcd-role [ROLE]

Prints the etcdctl lines that make a role (flannel, unless named) with what a
daemon needs and no more, and a user who has it. They are printed, not run; they
read the user's password from the file that the daemon reads it from.

  flannelctl etcd-role --etcd-password-file=/etc/flannel/etcd-password
  flannelctl etcd-role flannel-blue --etcd-prefix=/blue/network | sh`,
  flags: {
    ...COMMON_FLAGS,
    'names-prefix': {
      type: 'string',
      default: '',
      describe:
        'where daemons with --names-zone publish names, as that flag of theirs; they may not unless given',
      environment: false,
    },
  },
  run: async (flags, [role = 'flannel', ...rest]) => {
    if (rest.length > 0 || !NAME.test(role))
      throw new UsageError('etcd-role takes one name of letters, digits, dots, _ and -')
    const file = flags['etcd-password-file'] || DEFAULT_PASSWORD_FILE
    const lines = roleLines(cleanPrefix(flags['etcd-prefix']), role, {
      passwordFile: file,
      namesPrefix: flags['names-prefix'],
    })
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
function roleLines(
  prefix: string,
  role: string,
  { passwordFile, namesPrefix }: { passwordFile: string; namesPrefix: string },
): string[] {
  const permit = (kind: string, key: string): string =>
    `etcdctl role grant-permission ${role} --prefix=true ${kind} ${quoteWord(key)}`
  const grant = (kind: string, folder: string): string =>
    permit(kind, `${prefix}/${folder}`)
  return [
    `etcdctl role add ${role}`,
    grant('read', ''),
    ...['subnets/', 'claims/', 'last-holders/', 'orders/'].map(folder =>
      grant('readwrite', folder),
    ),
    ...(namesPrefix === '' ? [] : [permit('readwrite', `${cleanPrefix(namesPrefix)}/`)]),
    `etcdctl user add ${role} --interactive=false < ${quoteWord(passwordFile)}`,
    `etcdctl user grant-role ${role} ${role}`,
  ]
}
