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

/** Who we are to etcd, and how it is known: of one etcd, and of no other. */
const OF_ETCD = /^FLANNELD_ETCD_(?!PREFIX$)/

/**
 * The variables that the unit of this host gives the daemon, so that commands typed into a
 * shell mean the same etcd and the same places. Without those that this user may not read.
 *
 * @param isEtcdGiven without those that are about etcd, which another one may be.
 */
export async function readUnitSettings(
  isEtcdGiven: boolean,
): Promise<Record<string, string>> {
  const texts = await Promise.all(
    SETTINGS_FILES.map(path => readFile(path, 'utf8').catch(() => '')),
  )
  const variables = texts.flatMap(text => [...parseVariables(text)])
  return Object.fromEntries(
    variables.filter(([name]) => !(isEtcdGiven && OF_ETCD.test(name))),
  )
}
