import type { Etcd3 } from 'etcd3'
import type { EtcdOptions } from './etcd-cluster.js'
import { openEtcdClient } from './etcd-client.js'
import type { SubnetError } from './errors.js'
import { castEtcdError, isLoginExpired, isLoginNeedless } from './etcd-errors.js'
import { TlsFiles, type TlsMaterial } from './tls-files.js'

const SYSTEM_TRUST = new TlsFiles({})

/** etcd at one endpoint: a connection with the certificates of the day, and our login. */
export class EtcdMember {
  readonly endpoint: string
  readonly #options: EtcdOptions
  #client: Etcd3 | undefined
  #tls: TlsMaterial | undefined
  #login: Promise<void> | undefined
  #token: string | undefined
  #isClosed = false

  constructor(endpoint: string, options: EtcdOptions) {
    this.endpoint = endpoint
    this.#options = options
  }

  /**
   * Makes a call, after a login if there is a user, and once more if etcd does
   * not know that login any more: it has done nothing then, so that a write may
   * be repeated too. Rejects with a SubnetError.
   */
  async call<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    try {
      const client = await this.#connect()
      const login = this.#login
      try {
        return await call(client)
      } catch (error) {
        if (!isLoginExpired(error) || this.#options.login === undefined) throw error
        if (login !== undefined) this.forgetLogin(login)
        return await call(await this.#connect())
      }
    } catch (error) {
      throw this.cast(error)
    }
  }

  /** Casts what a stream of this member's client failed with. */
  cast(error: unknown): SubnetError {
    const { login } = this.#options
    return castEtcdError(error, {
      endpoint: this.endpoint,
      ...(this.#tls && { tls: this.#tls }),
      ...(login && { username: login.username }),
    })
  }

  /** @param login unless it was replaced already by another call that failed with it. */
  forgetLogin(login = this.#login): void {
    if (login !== this.#login) return
    this.#login = undefined
    this.#token = undefined
  }

  /** The next call reads certificates and password again, and connects anew. */
  renew(): void {
    this.forgetLogin()
    this.#client?.close()
    this.#client = undefined
  }

  /** Streams that are open go on until their readers end them. */
  close(): void {
    this.#isClosed = true
    this.#client?.close()
  }

  async #connect(): Promise<Etcd3> {
    if (this.#isClosed) throw new Error('the connection is closed')
    const client = this.#clientOfTheDay()
    if (this.#options.login) await (this.#login ??= this.#logIn(client))
    return client
  }

  /** TLS looks at certificates when it connects; new ones need a new connection. */
  #clientOfTheDay(): Etcd3 {
    const tls = this.endpoint.startsWith('https:')
      ? (this.#options.tls ?? SYSTEM_TRUST).current()
      : undefined
    if (this.#client === undefined || tls !== this.#tls) {
      this.#client?.close()
      this.#tls = tls
      this.#client = openEtcdClient(this.endpoint, {
        ...(tls && { tls }),
        token: () => this.#token,
      })
    }
    return this.#client
  }

  /** A login that fails is tried again with the next call, and the password read again. */
  async #logIn(client: Etcd3): Promise<void> {
    try {
      this.#token = await this.#authenticate(client)
    } catch (error) {
      this.forgetLogin()
      throw error
    }
  }

  async #authenticate(client: Etcd3): Promise<string | undefined> {
    const { login } = this.#options
    if (login === undefined) return undefined
    const request = { name: login.username, password: login.readPassword() }
    try {
      return (await client.auth.authenticate(request)).token
    } catch (error) {
      if (isLoginNeedless(error)) return undefined
      throw error
    }
  }
}
