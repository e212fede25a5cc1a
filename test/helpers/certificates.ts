import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const KEY = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'

/** Paths of a certificate and its key. */
export interface Pair {
  readonly cert: string
  readonly key: string
}

/** An authority made with openssl, and what it has signed, in a directory of its own. */
export class Authority {
  readonly directory = mkdtempSync(join(tmpdir(), 'flanneld-ca-'))
  readonly ca = join(this.directory, 'ca.crt')
  readonly #key = join(this.directory, 'ca.key')
  #serial = 0

  constructor() {
    const subject = ['-subj', '/CN=test authority', '-days', '2']
    this.#openssl(`req -x509 ${KEY} -keyout ${this.#key} -out ${this.ca}`, subject)
  }

  /** @param days how long it is valid from now; -1 for one that has expired. */
  sign(options: { names?: string; commonName?: string; days?: number } = {}): Pair {
    const {
      names = 'IP:127.0.0.1,DNS:localhost',
      commonName = 'test',
      days = 2,
    } = options
    const serial = ++this.#serial
    const path = join(this.directory, String(serial))
    const pair = { cert: `${path}.crt`, key: `${path}.key` }
    const subject = ['-subj', `/CN=${commonName}`]
    this.#openssl(`req ${KEY} -keyout ${pair.key} -out ${path}.csr`, subject)
    writeFileSync(`${path}.ext`, `subjectAltName=${names}\n`)
    const signer = `-CA ${this.ca} -CAkey ${this.#key} -set_serial ${serial}`
    this.#openssl(
      `x509 -req -in ${path}.csr ${signer} -days ${days} -extfile ${path}.ext -out ${pair.cert}`,
    )
    return pair
  }

  #openssl(line: string, more: readonly string[] = []): void {
    execFileSync('openssl', [...line.split(' '), ...more], { stdio: 'pipe' })
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}
