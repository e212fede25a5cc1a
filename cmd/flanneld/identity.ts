import { createHash, randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { isJsonObject } from '../../lib/subnet/go-json.js'
import { HOST_ID } from '../../lib/subnet/subnet-record.js'
import { readFileIfAny, writeFileAtomic } from './files.js'
import { UsageError } from './parse-flags.js'

const VERSION = 1

/** Who this host is, whatever its addresses are. */
export interface Identity {
  readonly hostId: string
  /** True when the stored id was made on hardware that looks different: a copied disk, or a new network card. */
  readonly mayBeClone: boolean
}

export interface IdentityOptions {
  /** --node-id, or ''. */
  readonly given: string
  readonly file: string
  readonly mac: string | undefined
}

/**
 * The name of this host in its lease: `--node-id`, else the one that was stored,
 * else one derived from the machine id and the underlay's MAC address, which is
 * then stored with a fingerprint of both.
 */
export async function obtainIdentity(
  { given, file, mac }: IdentityOptions,
  log: Logger,
): Promise<Identity> {
  if (given !== '') {
    if (HOST_ID.test(given)) return { hostId: given, mayBeClone: false }
    throw new UsageError(
      `--node-id ${JSON.stringify(given)} must be up to 64 letters, digits, dots, _ or -`,
    )
  }
  const fingerprint = await takeFingerprint(mac)
  const text = await readFileIfAny(file)
  const stored = parseStored(text)
  if (stored === undefined) {
    if (text !== undefined)
      log.warn({ file }, 'the stored host id is unreadable; making another')
    return await makeIdentity(file, deriveHostId(fingerprint), fingerprint, log)
  }
  return {
    hostId: stored.hostId,
    mayBeClone: stored.fingerprint !== undefined && stored.fingerprint !== fingerprint,
  }
}

/** A new name for a copy of a machine, whose original goes by the old one. */
export async function renewIdentity(
  { file, mac }: IdentityOptions,
  log: Logger,
): Promise<Identity> {
  const fingerprint = await takeFingerprint(mac)
  return await makeIdentity(file, randomBytes(8).toString('hex'), fingerprint, log)
}

/** The id is ours for good: what it was made on does not matter any more. */
export async function confirmIdentity(
  { given, file, mac }: IdentityOptions,
  { hostId, mayBeClone }: Identity,
): Promise<void> {
  if (given === '' && mayBeClone)
    await writeIdentity(file, hostId, await takeFingerprint(mac))
}

async function makeIdentity(
  file: string,
  hostId: string,
  fingerprint: string,
  log: Logger,
): Promise<Identity> {
  await writeIdentity(file, hostId, fingerprint)
  log.info({ hostId, file }, 'made a host id')
  return { hostId, mayBeClone: false }
}

async function writeIdentity(
  file: string,
  hostId: string,
  fingerprint: string,
): Promise<void> {
  const text = JSON.stringify({ version: VERSION, hostId, fingerprint })
  await writeFileAtomic(file, `${text}\n`, 0o600)
}

/** The file as we write it, or a bare id, as an operator or an earlier version did. */
function parseStored(
  text: string | undefined,
): { hostId: string; fingerprint: string | undefined } | undefined {
  const word = text?.trim() ?? ''
  if (HOST_ID.test(word)) return { hostId: word, fingerprint: undefined }
  try {
    const value: unknown = JSON.parse(word)
    if (!isJsonObject(value)) return undefined
    const { hostId, fingerprint } = value
    if (typeof hostId !== 'string' || !HOST_ID.test(hostId)) return undefined
    return {
      hostId,
      fingerprint: typeof fingerprint === 'string' ? fingerprint : undefined,
    }
  } catch {
    return undefined
  }
}

async function takeFingerprint(mac: string | undefined): Promise<string> {
  const machineId = (await readFileIfAny('/etc/machine-id'))?.trim() ?? ''
  return createHash('sha256')
    .update(`flanneld host id\n${machineId}\n${mac ?? ''}\n`)
    .digest('hex')
}

/** The same machine gets the same id again when its state was lost. */
function deriveHostId(fingerprint: string): string {
  return fingerprint.slice(0, 16)
}

/** The host id in the file of a state directory; undefined when there is none. */
export async function readStoredHostId(file: string): Promise<string | undefined> {
  return parseStored(await readFileIfAny(file))?.hostId
}
