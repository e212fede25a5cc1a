import { z } from 'zod'
import { quoteWord } from '../../lib/linux/words.js'
import { formatVariable } from '../../lib/subnet/subnet-env.js'
import { type FLANNELD_FLAGS, environmentName } from '../flanneld/flag-table.js'
import { describeUnknown } from '../flanneld/edit-distance.js'
import { ENVIRONMENT_FILE } from './unit-settings.js'

/**
 * What CoreOS made of the section `coreos` of a cloud-config (coreos-cloudinit,
 * config/flannel.go): a variable for each key of `coreos.flannel`, and units.
 */

/** Keys of coreos.flannel, `-` written as `_`, and our flag for each. */
const KEYS = {
  etcd_endpoints: 'etcd-endpoints',
  etcd_cafile: 'etcd-cafile',
  etcd_certfile: 'etcd-certfile',
  etcd_keyfile: 'etcd-keyfile',
  etcd_prefix: 'etcd-prefix',
  etcd_username: 'etcd-username',
  etcd_password: 'etcd-password',
  ip_masq: 'ip-masq',
  subnet_file: 'subnet-file',
  interface: 'iface',
  public_ip: 'public-ip',
} as const satisfies Record<string, keyof typeof FLANNELD_FLAGS>

/** What stood for the addresses of the machine, which its cloud told at boot. */
const SUBSTITUTED = /\$((?:private|public)_ipv[46])(?!\w)/g

export type MachineAddresses = Partial<
  Record<'private_ipv4' | 'public_ipv4' | 'private_ipv6' | 'public_ipv6', string>
>

/** Everybody may read the variables; a password has a file of its own. */
export const PASSWORD_FILE = '/etc/flannel/etcd-password'

const MODE = 0o644
const SECRET_MODE = 0o600

/** The name of a file of systemd: no directory, and nothing that climbs out of one. */
const UNIT_NAME =
  /^[\w@:.-]+\.(service|socket|target|timer|path|mount|network|netdev|link)$/
const NETWORK_NAME = /\.(network|netdev|link)$/
const DROP_IN_NAME = /^[\w@:.-]+\.conf$/

const dropIn = z.looseObject({ name: z.string(), content: z.string() })

const unit = z.looseObject({
  name: z.string(),
  content: z.string().optional(),
  command: z.string().optional(),
  enable: z.boolean().optional(),
  mask: z.boolean().optional(),
  drop_ins: z.array(dropIn).optional(),
  'drop-ins': z.array(dropIn).optional(),
})

const cloudConfig = z.looseObject({
  coreos: z.looseObject({
    flannel: z.record(z.string(), z.unknown()).nullish(),
    units: z.array(unit).nullish(),
  }),
})

export interface ImportedFile {
  readonly path: string
  readonly mode: number
  readonly text: string
}

export interface Imported {
  readonly files: readonly ImportedFile[]
  /** What is to be run once, in this order. */
  readonly commands: readonly string[]
  /** What was left out, or needs a look. */
  readonly warnings: readonly string[]
}

/**
 * @param value what a YAML parser made of the file.
 * Throws TypeError when it has no section `coreos`.
 */
export function importCloudConfig(value: unknown, addresses: MachineAddresses): Imported {
  const parsed = cloudConfig.safeParse(value)
  if (!parsed.success)
    throw new TypeError(
      `it is no cloud-config with a section coreos: ${z.prettifyError(parsed.error)}`,
    )
  const { flannel, units } = parsed.data.coreos
  const made = new Made(addresses)
  made.translateFlannel(flannel ?? {})
  for (const each of units ?? []) made.translateUnit(each)
  if (made.files.some(({ path }) => path.startsWith('/etc/systemd/system/')))
    made.reloadFirst()
  return made
}

class Made implements Imported {
  readonly files: ImportedFile[] = []
  readonly commands: string[] = []
  readonly warnings: string[] = []
  readonly #addresses: MachineAddresses
  #endpoints = ''

  constructor(addresses: MachineAddresses) {
    this.#addresses = addresses
  }

  translateFlannel(section: Readonly<Record<string, unknown>>): void {
    const lines: string[] = []
    for (const [given, value] of Object.entries(section)) {
      const key = given.replaceAll('-', '_')
      if (!isKey(key)) {
        this.warnings.push(
          `coreos.flannel.${given} is left out: ${describeUnknown('key', key, Object.keys(KEYS))}`,
        )
        continue
      }
      if (typeof value !== 'string' && typeof value !== 'boolean') {
        this.warnings.push(`coreos.flannel.${given} is left out: it is no text`)
        continue
      }
      lines.push(...this.#line(key, this.#substitute(`coreos.flannel.${given}`, value)))
    }
    if (lines.length === 0) return
    const text = `# From a cloud-config.\n${lines.join('\n')}\n`
    this.files.push({ path: ENVIRONMENT_FILE, mode: MODE, text })
  }

  #line(key: keyof typeof KEYS, value: string | undefined): string[] {
    const variable = environmentName(KEYS[key])
    if (value === undefined) return [`#${variable}=`]
    if (key === 'etcd_endpoints') this.#endpoints = value
    if (key !== 'etcd_password') return [formatVariable(variable, value)]
    this.files.push({ path: PASSWORD_FILE, mode: SECRET_MODE, text: `${value}\n` })
    this.warnings.push(
      `the password of etcd stood where everybody reads it; it is in ${PASSWORD_FILE} now`,
    )
    return [`${environmentName('etcd-password-file')}=${PASSWORD_FILE}`]
  }

  /** Undefined when it names an address that nobody has told. */
  #substitute(where: string, value: string | boolean): string | undefined {
    const { text, untold } = this.#fill(String(value))
    for (const name of untold)
      this.warnings.push(
        `${where} is ${name}, which nobody has told: give --${name.slice(1).replace('_', '-')}`,
      )
    return untold.length === 0 ? text : undefined
  }

  /** As CoreOS did to the whole file: of these names alone. */
  #fill(given: string): { text: string; untold: string[] } {
    const untold: string[] = []
    const text = given.replaceAll(SUBSTITUTED, (name, word: string) => {
      const address = this.#addresses[word as keyof MachineAddresses]
      if (address === undefined) untold.push(name)
      return address ?? name
    })
    return { text, untold }
  }

  /** systemd has to know new units before anything is done with them. */
  reloadFirst(): void {
    const at = this.commands.findIndex(each => each.startsWith('systemctl '))
    this.commands.splice(at < 0 ? this.commands.length : at, 0, 'systemctl daemon-reload')
  }

  translateUnit(given: z.infer<typeof unit>): void {
    const { name, content, command, enable, mask } = given
    if (!UNIT_NAME.test(name)) {
      this.warnings.push(
        `the unit ${JSON.stringify(name)} is left out: no name of a unit`,
      )
      return
    }
    const isOurs = name === 'flanneld.service'
    if (content !== undefined && isOurs)
      this.warnings.push('flanneld.service is left out: the package brings its own')
    else if (content !== undefined) this.#addUnitFile(name, name, content)
    for (const each of [...(given.drop_ins ?? []), ...(given['drop-ins'] ?? [])]) {
      if (!DROP_IN_NAME.test(each.name))
        this.warnings.push(
          `${name}: the drop-in ${JSON.stringify(each.name)} is left out: it is no name ending in .conf`,
        )
      else this.#addUnitFile(name, `${name}.d/${each.name}`, each.content)
    }
    if (mask === true) this.commands.push(`systemctl mask ${name}`)
    if (enable === true) this.commands.push(`systemctl enable ${name}`)
    if (command !== undefined && /^[a-z-]+$/.test(command))
      this.commands.push(`systemctl ${command} ${name}`)
  }

  #addUnitFile(unitName: string, path: string, content: string): void {
    const { text, untold } = this.#fill(content)
    for (const name of new Set(untold))
      this.warnings.push(
        `${path} has ${name}, which nobody has told: give --${name.slice(1).replace('_', '-')}`,
      )
    const lines = text.split('\n').filter(line => this.#keepLine(unitName, path, line))
    const isEmpty = lines.every(line => /^\s*(\[\w+\])?\s*$/.test(line))
    if (isEmpty) return
    const directory = NETWORK_NAME.test(unitName) ? 'network' : 'system'
    const whole = `/etc/systemd/${directory}/${path}`
    this.files.push({ path: whole, mode: MODE, text: lines.join('\n') })
    const old = /early-docker|etcd2|fleet|\/opt\/bin\/flanneld/.exec(content)
    if (old !== null)
      this.warnings.push(`${path} names ${old[0]}, which hosts of today do not have`)
  }

  /** What stores the network, with a command of etcd's second version, is to be done once. */
  #keepLine(unitName: string, path: string, line: string): boolean {
    if (unitName !== 'flanneld.service' || !/^\s*Exec\w+=.*etcdctl/.test(line))
      return true
    const stored = readConfigLine(line)
    if (stored === undefined) {
      this.warnings.push(
        `${path}: ${line.trim()} is left out: store the network with flannelctl config set`,
      )
      return false
    }
    const flags = [`--etcd-prefix=${stored.prefix}`]
    if (this.#endpoints !== '') flags.push(`--etcd-endpoints=${this.#endpoints}`)
    const words = ['flannelctl', 'config', 'set', stored.config, ...flags]
    this.commands.unshift(words.map(shellWord).join(' '))
    return false
  }
}

/** As people write it: without quotes where none are needed. */
function shellWord(text: string): string {
  return /^[\w./:,@=-]+$/.test(text) ? text : quoteWord(text)
}

function isKey(key: string): key is keyof typeof KEYS {
  return Object.hasOwn(KEYS, key)
}

/** The network configuration that a line of a unit stores, and below which prefix; undefined for others. */
function readConfigLine(line: string): { prefix: string; config: string } | undefined {
  const words = /\s(?:set|put|mk)\s+(\S+)\/config\s+(.*)$/.exec(line.trim())
  const [, prefix = '', value = ''] = words ?? []
  const text = value.trim().replace(/^(['"])(.*)\1$/, '$2')
  try {
    return { prefix, config: JSON.stringify(JSON.parse(text)) }
  } catch {
    return undefined
  }
}
