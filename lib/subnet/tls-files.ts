import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'

/** Paths of PEM files. A CA alone is enough; certificate and key go together. */
export interface TlsPaths {
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
}

/** PEM texts. */
export interface TlsMaterial {
  readonly ca?: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
}

/** The text between the first line of a PEM certificate and its last. */
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g
const FIRST_LINE = /-----BEGIN [A-Z ]*CERTIFICATE-----/g

/**
 * Certificates and key for TLS, read again when their files change. What was
 * read before stays in use while a file is missing, half written, or does not
 * fit the others because the next one has yet to be written.
 */
export class TlsFiles {
  readonly #paths: TlsPaths
  readonly #log: Logger | undefined
  #state: string
  #material: TlsMaterial

  /** Throws SyntaxError for content that cannot be used, and what the system says of a file that cannot be read. */
  constructor(paths: TlsPaths, log?: Logger) {
    this.#paths = paths
    this.#log = log
    this.#state = stateOf(paths)
    this.#material = readMaterial(paths)
  }

  /** What was read is read again when it is needed next. */
  forget(): void {
    this.#state = ''
  }

  /** The same object as before unless the files have changed to something usable. */
  current(): TlsMaterial {
    try {
      const state = stateOf(this.#paths)
      if (state === this.#state) return this.#material
      // Taken before the files are read: what changes meanwhile is seen the next time.
      this.#state = state
      this.#material = readMaterial(this.#paths)
      this.#log?.info(this.#paths, 'certificates for etcd read again')
    } catch (error) {
      const reason = (error as Error).message
      if (reason !== this.#state) {
        this.#log?.warn(
          { reason },
          'the changed certificates for etcd cannot be used; going on with the former ones',
        )
      }
      // A file that is away has no state of its own to tell a repetition by.
      if ('code' in (error as Error)) this.#state = reason
    }
    return this.#material
  }
}

/** Changes whenever a file is written, or replaced by another under the same name. */
function stateOf(paths: TlsPaths): string {
  return Object.values(paths)
    .map((path: string) => {
      const { ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true })
      return [ino, size, mtimeNs, ctimeNs].join(':')
    })
    .join(' ')
}

function readMaterial(paths: TlsPaths): TlsMaterial {
  const ca = paths.ca && readCertificates(paths.ca)
  const cert = paths.cert && readCertificates(paths.cert)
  const key = paths.key && readFileSync(paths.key)
  if (cert && key) checkPair(cert, key, paths)
  return {
    ...(ca && { ca }),
    ...(cert && key && { cert, key }),
  }
}

/** One certificate or several, every one of them whole. */
function readCertificates(path: string): Buffer {
  const pem = readFileSync(path)
  const text = pem.toString('latin1')
  const blocks = text.match(CERTIFICATE) ?? []
  const isWhole = blocks.length === (text.match(FIRST_LINE) ?? []).length
  if (blocks.length === 0 || !isWhole || !blocks.every(isCertificate)) {
    throw new SyntaxError(`${path} does not hold whole certificates in PEM`)
  }
  return pem
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).subject !== ''
  } catch {
    return false
  }
}

function checkPair(cert: Buffer, key: Buffer, paths: TlsPaths): void {
  try {
    createSecureContext({ cert, key })
  } catch (cause) {
    throw new SyntaxError(
      `the key in ${paths.key} does not belong to the certificate in ${paths.cert}, or cannot be read`,
      { cause },
    )
  }
}

/** When our own certificate ends, in ms since the epoch. */
export function endOfCertificate(cert: Buffer): number {
  return Date.parse(new X509Certificate(cert).validTo)
}
