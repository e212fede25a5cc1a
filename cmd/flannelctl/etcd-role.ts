import { quoteWord } from '../../lib/linux/words.js'
import { orderKey, parseSubnet } from '../../lib/subnet/orders.js'
import { type Subnet, cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { HOST_ID } from '../../lib/subnet/subnet-record.js'
import { guardsOfFree } from '../../lib/subnet/subnet-writes.js'
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

A role that all hosts share may write the records of all of them. --subnet and --host
make one for a single host, which can touch nothing of another's: the subnet has to be
reserved for it (flannelctl lease reserve SUBNET --host ID), and its daemon started with
--node-id=ID.

  flannelctl etcd-role --etcd-password-file=/etc/flannel/etcd-password
  flannelctl etcd-role flannel-blue --etcd-prefix=/blue/network | sh
  flannelctl etcd-role db-1 --subnet=10.5.9.0/24 --host=db-1`,
  flags: {
    ...COMMON_FLAGS,
    'names-prefix': {
      type: 'string',
      default: '',
      describe:
        'where daemons with --names-zone publish names, as that flag of theirs; they may not unless given',
      environment: false,
    },
    subnet: {
      type: 'string',
      default: '',
      describe: 'the only subnet that the role may write, with --host',
      environment: false,
    },
    host: {
      type: 'string',
      default: '',
      describe: 'host id of the only host that the role is for, with --subnet',
      environment: false,
    },
  },
  run: async (flags, [role = 'flannel', ...rest]) => {
    if (rest.length > 0 || !NAME.test(role))
      throw new UsageError('etcd-role takes one name of letters, digits, dots, _ and -')
    const file = flags['etcd-password-file'] || DEFAULT_PASSWORD_FILE
    if (flags.host !== '' && flags['names-prefix'] !== '')
      throw new UsageError(
        'etcd-role: names of all hosts lie side by side, so that a role for one host cannot be kept from those of others: without --names-prefix',
      )
    const prefix = cleanPrefix(flags['etcd-prefix'])
    const permissions = [
      { kind: 'read', key: `${prefix}/`, isPrefix: true },
      ...writable(prefix, flags.subnet, flags.host),
      ...(flags['names-prefix'] === ''
        ? []
        : [everythingBelow(cleanPrefix(flags['names-prefix']))]),
    ]
    const lines = roleLines(role, file, permissions)
    if (flags.json) printJson({ lines })
    else process.stdout.write(lines.map(line => `${line}\n`).join(''))
    return await Promise.resolve(EXIT.ok)
  },
})

interface Permission {
  readonly kind: string
  readonly key: string
  /** All keys that begin so. */
  readonly isPrefix: boolean
}

const everythingBelow = (folder: string): Permission => ({
  kind: 'readwrite',
  key: `${folder}/`,
  isPrefix: true,
})

/**
 * What lies where is told in docs/registry-schema.md. The daemon reads the whole
 * prefix, and writes its lease, the claims of dual stack, the mark of who held a
 * subnet last, and its answer to an order.
 */
function writable(prefix: string, subnetText: string, host: string): Permission[] {
  if (subnetText === '' && host === '')
    return ['subnets', 'claims', 'last-holders', 'orders'].map(folder =>
      everythingBelow(`${prefix}/${folder}`),
    )
  if (subnetText === '' || !HOST_ID.test(host))
    throw new UsageError(
      'etcd-role: a role for one host takes --subnet and --host, its host id',
    )
  // Its record with the claims. Who held a subnet last need not be told: it is reserved.
  const keys = guardsOfFree(prefix, readSubnet(subnetText)).map(({ key }) => key)
  return [...keys, orderKey(prefix, host)].map(key => ({
    kind: 'readwrite',
    key,
    isPrefix: false,
  }))
}

function readSubnet(text: string): Subnet {
  try {
    return parseSubnet(text)
  } catch (error) {
    throw new UsageError(`--subnet: ${(error as Error).message}`)
  }
}

function roleLines(
  role: string,
  passwordFile: string,
  permissions: readonly Permission[],
): string[] {
  return [
    `etcdctl role add ${role}`,
    ...permissions.map(({ kind, key, isPrefix }) =>
      [
        `etcdctl role grant-permission ${role}`,
        ...(isPrefix ? ['--prefix=true'] : []),
        kind,
        quoteWord(key),
      ].join(' '),
    ),
    `etcdctl user add ${role} --interactive=false < ${quoteWord(passwordFile)}`,
    `etcdctl user grant-role ${role} ${role}`,
  ]
}
