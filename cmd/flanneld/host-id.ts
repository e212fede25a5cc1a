import { createHash, randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { readFileIfAny, writeFileAtomic } from './files.js'

/** What a host id may look like: it is a word in JSON, in keys and in tables. */
const HOST_ID = /^[A-Za-z0-9._-]{1,64}$/

/**
 * The name of this host in its lease, which outlives a change of address:
 * `--node-id`, else the one that was stored, else one derived from the machine
 * id and the underlay's MAC address, which is then stored.
 */
export async function obtainHostId(
  options: { given: string; file: string; mac: string | undefined },
  log: Logger,
): Promise<string> {
  const { given, file, mac } = options
  if (given !== '') {
    if (HOST_ID.test(given)) return given
    throw new SyntaxError(
      `--node-id ${given} must be up to 64 letters, digits, dots, _ or -`,
    )
  }
  const stored = (await readFileIfAny(file))?.trim()
  if (stored !== undefined && HOST_ID.test(stored)) return stored
  if (stored !== undefined)
    log.warn({ file }, 'the stored host id is unreadable; making another')

  const hostId = deriveHostId(await readFileIfAny('/etc/machine-id'), mac)
  await writeFileAtomic(file, `${hostId}\n`, 0o600)
  log.info({ hostId, file }, 'made a host id')
  return hostId
}

/** The same machine gets the same id again when its state was lost. */
function deriveHostId(machineId: string | undefined, mac: string | undefined): string {
  if (machineId === undefined && mac === undefined) return randomBytes(8).toString('hex')
  return createHash('sha256')
    .update(`flanneld host id\n${machineId?.trim() ?? ''}\n${mac ?? ''}\n`)
    .digest('hex')
    .slice(0, 16)
}
