import { readFile } from 'node:fs/promises'
import { parseVariables } from '../../lib/subnet/subnet-env.js'

/** What `import cloud-config` and `takeover` write. */
export const ENVIRONMENT_FILE = '/etc/flannel/options.env'

/** The unit's EnvironmentFile settings: a later one counts more. */
export const SETTINGS_FILES = [
  '/run/flannel/options.env',
  ENVIRONMENT_FILE,
  '/etc/default/flanneld',
] as const

/**
 * The variables that the unit of this host gives the daemon, so that commands typed into a
 * shell mean the same etcd and the same places. Without those that this user may not read.
 */
export async function readUnitSettings(): Promise<Record<string, string>> {
  const texts = await Promise.all(
    SETTINGS_FILES.map(path => readFile(path, 'utf8').catch(() => '')),
  )
  return Object.assign(
    {},
    ...texts.map(text => Object.fromEntries(parseVariables(text))),
  ) as Record<string, string>
}
