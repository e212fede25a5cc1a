import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
} from 'node:crypto'
import { open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { WG_KEY } from '../../linux/wg.js'
import { BackendError } from '../errors.js'

/** Where flannel keeps its private key, until the machine restarts. */
const FLANNEL_KEY_FILE = '/run/flannel/wgkey'

/** The parts of RFC 8410's DER encodings that stand before the 32 bytes of a key. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex')
const KEY_BYTES = 32

export interface OwnKey {
  /** Holds the private key; nobody else may read it. */
  readonly file: string
  readonly publicKey: string
}

/**
 * This host's key: of the file that the operator names, or of our own, which
 * outlives a reboot. What flannel has left is taken over, so that remotes need not
 * learn another. Throws BackendError.
 */
export async function obtainKey(
  stateDir: string,
  operatorsFile: string | undefined,
): Promise<OwnKey> {
  const file = operatorsFile ?? ownKeyFile(stateDir)
  const kept = await readKey(file, operatorsFile === undefined)
  if (kept !== undefined) return { file, publicKey: publicKeyOf(kept) }
  const left =
    operatorsFile === undefined ? await readKey(FLANNEL_KEY_FILE, false) : undefined
  const key = left ?? newKey()
  try {
    await keep(file, key)
  } catch (cause) {
    throw new BackendError(
      'ERR_DEVICE',
      `cannot keep the WireGuard key: ${text(cause)}`,
      {
        cause,
      },
    )
  }
  return { file, publicKey: publicKeyOf(key) }
}

/** Whole or not at all, whatever happens: hosts know each other by their keys. */
async function keep(file: string, key: string): Promise<void> {
  const handle = await open(`${file}.new`, 'w', 0o400)
  try {
    await handle.writeFile(`${key}\n`)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(`${file}.new`, file)
}

/** Where our own key is kept. */
export function ownKeyFile(stateDir: string): string {
  return join(stateDir, 'wireguard-key')
}

/** @param isOurs so that an empty one may be made anew: a power cut leaves such. */
async function readKey(file: string, isOurs: boolean): Promise<string | undefined> {
  let key: string
  try {
    key = (await readFile(file, 'utf8')).trim()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new BackendError('ERR_DEVICE', `cannot read a key: ${text(cause)}`, { cause })
  }
  if (WG_KEY.test(key)) return key
  if (isOurs && key === '') return undefined
  throw new BackendError(
    'ERR_DEVICE',
    `${file} holds no WireGuard key; remove it, or write one there with wg genkey`,
  )
}

function newKey(): string {
  const { privateKey } = generateKeyPairSync('x25519')
  return lastBytes(privateKey.export({ format: 'der', type: 'pkcs8' }))
}

/** Both keys in base64 (RFC 7748, section 6.1). */
export function publicKeyOf(privateKey: string): string {
  const der = Buffer.concat([PKCS8_PREFIX, Buffer.from(privateKey, 'base64')])
  const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
  return lastBytes(createPublicKey(key).export({ format: 'der', type: 'spki' }))
}

function lastBytes(der: Buffer): string {
  return der.subarray(-KEY_BYTES).toString('base64')
}

/** Tells a secret from another without telling it. */
export function digestOf(secret: string | undefined): string {
  if (secret === undefined) return 'none'
  return createHash('sha256').update(secret).digest('hex').slice(0, 8)
}

function text(error: unknown): string {
  return (error as Error).message
}
