import type { Etcd3 } from 'etcd3'
import type { Logger } from 'pino'
import { SubnetError, isSubnetError } from './errors.js'
import { EtcdMember } from './etcd-member.js'
import { type SrvResolver, openSrvResolver, resolveEndpoints } from './etcd-srv.js'
import type { TlsFiles } from './tls-files.js'

export interface EtcdLogin {
  readonly username: string
  /** Asked at each login, so that a changed password is found. */
  readonly readPassword: () => string
}

export interface EtcdOptions {
  /** URLs, http or https; srv://domain stands for what DNS has for that domain. */
  readonly endpoints: readonly string[]
  /** For https. Without it the authorities that Node.js brings are trusted. */
  readonly tls?: TlsFiles
  readonly login?: EtcdLogin
  /** Whether endpoints that DNS names may be plain HTTP. */
  readonly isPlainSrvAllowed?: boolean
  readonly resolver?: SrvResolver
  readonly log?: Logger
}

/** Until a read is tried at another endpoint as well, in ms. */
const PATIENCE_MS = 1000

/**
 * The endpoints of one etcd, and which of them answers. Calls go to one endpoint
 * as long as it works. A read that it fails, or leaves waiting, is tried at the
 * others, and the first that answers is the one in use from then on: each dead
 * or silent endpoint costs a second, once.
 */
export class EtcdCluster {
  readonly #options: EtcdOptions
  readonly #members = new Map<string, EtcdMember>()
  /** In the order of --etcd-endpoints. Empty until DNS was asked, if that is needed. */
  #endpoints: readonly string[]
  /** The endpoint in use, in #endpoints. */
  #current = 0
  #isClosed = false

  constructor(options: EtcdOptions) {
    if (options.endpoints.length === 0) throw new TypeError('no etcd endpoint given')
    this.#options = options
    this.#endpoints = options.endpoints.some(isSrv) ? [] : options.endpoints
  }

  /** The endpoint that calls go to at present. */
  get endpoint(): string {
    return this.#endpoints[this.#current] ?? this.#options.endpoints[0] ?? ''
  }

  /** Of calls that were made, how many failed, and how long all took together. */
  readonly calls = { made: 0, failed: 0, seconds: 0 }

  /**
   * Makes a call that may be repeated, also while an earlier attempt is under way.
   *
   * @param patienceMs until it is tried at another endpoint as well, although none has failed.
   */
  async ask<T>(
    call: (client: Etcd3) => Promise<T>,
    patienceMs = PATIENCE_MS,
  ): Promise<T> {
    return await this.#counted(() => this.#ask(call, patienceMs))
  }

  async #counted<T>(call: () => Promise<T>): Promise<T> {
    const begin = performance.now()
    this.calls.made += 1
    try {
      return await call()
    } catch (error) {
      this.calls.failed += 1
      throw error
    } finally {
      this.calls.seconds += (performance.now() - begin) / 1000
    }
  }

  async #ask<T>(call: (client: Etcd3) => Promise<T>, patienceMs: number): Promise<T> {
    const tried = this.#endpoints
    try {
      if (tried.length > 0) return await this.#askAll(call, patienceMs)
    } catch (error) {
      if (!isUnavailable(error)) throw error
      await this.#findEndpoints().catch(() => undefined)
      // Only an endpoint that DNS had not named before is worth a second round.
      if (this.#endpoints.every(endpoint => tried.includes(endpoint))) throw error
      return await this.#askAll(call, patienceMs)
    }
    await this.#findEndpoints()
    return await this.#askAll(call, patienceMs)
  }

  /** Makes a call that must not be repeated. The next call goes elsewhere if this one fails. */
  async askOnce<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    return await this.#counted(() => this.#askOnce(call))
  }

  async #askOnce<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    if (this.#endpoints.length === 0) await this.#findEndpoints()
    const member = this.current()
    try {
      return await member.call(call)
    } catch (error) {
      if (isUnavailable(error)) this.leave(member)
      throw error
    }
  }

  /** The member in use. */
  current(): EtcdMember {
    return this.#member(this.endpoint)
  }

  /** Leaves a member that failed, unless another call has left it already. */
  leave(member: EtcdMember): void {
    if (member.endpoint !== this.endpoint) return
    this.#use((this.#current + 1) % this.#endpoints.length)
  }

  /** Reads certificates and password again, whether their files have changed or not. */
  renew(): void {
    this.#options.tls?.forget()
    for (const member of this.#members.values()) member.renew()
  }

  close(): void {
    this.#isClosed = true
    for (const member of this.#members.values()) member.close()
  }

  /**
   * Begins at the endpoint in use, and goes on to the next when all so far have
   * failed or the patience is over. The first that answers, also with a refusal,
   * which would be the same everywhere, decides.
   */
  async #askAll<T>(call: (client: Etcd3) => Promise<T>, patienceMs: number): Promise<T> {
    const endpoints = this.#endpoints
    const start = this.#current
    const failures = new Map<string, SubnetError>()
    const attempts: Promise<Answer<T>>[] = []
    for (let turn = 0; turn < endpoints.length; turn++) {
      const endpoint = endpoints[(start + turn) % endpoints.length] ?? ''
      attempts.push(
        this.#member(endpoint)
          .call(call)
          .then(
            value => ({ endpoint, value }),
            (error: unknown) => {
              if (!isUnavailable(error)) return { endpoint, error }
              failures.set(endpoint, error)
              throw error
            },
          ),
      )
      const isLast = turn === endpoints.length - 1
      const answer = await firstOf(attempts, isLast ? Infinity : patienceMs)
      if (answer === undefined) continue
      this.#use(endpoints.indexOf(answer.endpoint))
      if ('error' in answer) throw answer.error
      return answer.value
    }
    throw unavailable(endpoints.flatMap(endpoint => failures.get(endpoint) ?? []))
  }

  #use(index: number): void {
    if (index === this.#current) return
    const before = this.endpoint
    this.#current = index
    this.#options.log?.info(
      { endpoint: this.endpoint, before },
      'etcd is used at another endpoint',
    )
  }

  #member(endpoint: string): EtcdMember {
    let member = this.#members.get(endpoint)
    if (member === undefined) {
      member = new EtcdMember(endpoint, this.#options)
      if (this.#isClosed) member.close()
      this.#members.set(endpoint, member)
    }
    return member
  }

  /** Asks DNS for the endpoints, if that is what the flag says, and keeps to the one in use if it is still named. */
  async #findEndpoints(): Promise<void> {
    const { endpoints, resolver, isPlainSrvAllowed = true } = this.#options
    if (!endpoints.some(isSrv)) return
    const found: string[] = []
    const failures: unknown[] = []
    for (const endpoint of endpoints) {
      if (!isSrv(endpoint)) {
        found.push(endpoint)
        continue
      }
      const domain = endpoint.slice(SRV.length)
      await resolveEndpoints(
        domain,
        resolver ?? openSrvResolver(),
        isPlainSrvAllowed,
      ).then(
        named => found.push(...named),
        (error: unknown) => failures.push(error),
      )
    }
    if (found.length === 0) throw failures[0]
    const inUse = this.#endpoints[this.#current]
    this.#endpoints = [...new Set(found)]
    this.#current = Math.max(0, this.#endpoints.indexOf(inUse ?? ''))
    for (const [endpoint, member] of this.#members) {
      if (this.#endpoints.includes(endpoint)) continue
      member.close()
      this.#members.delete(endpoint)
    }
    this.#options.log?.info({ endpoints: this.#endpoints }, 'DNS names endpoints of etcd')
  }
}

type Answer<T> =
  | { readonly endpoint: string; readonly value: T }
  | { readonly endpoint: string; readonly error: unknown }

const SRV = 'srv://'

function isSrv(endpoint: string): boolean {
  return endpoint.startsWith(SRV)
}

function isUnavailable(error: unknown): error is SubnetError {
  return isSubnetError(error, 'ERR_REGISTRY_UNAVAILABLE')
}

/** All failures in one, in the order of the flag, so that the same trouble always reads the same. */
function unavailable(failures: readonly SubnetError[]): SubnetError {
  const [first, second] = failures
  if (first !== undefined && second === undefined) return first
  const message = failures.map(failure => failure.message).join('; ')
  return new SubnetError('ERR_REGISTRY_UNAVAILABLE', message, { cause: first })
}

/** The first that resolves; undefined when all have rejected or the time is over. */
async function firstOf<T>(
  attempts: readonly Promise<T>[],
  timeoutMs: number,
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const timeIsOver = new Promise<undefined>(resolve => {
    if (timeoutMs < Infinity) timer = setTimeout(resolve, timeoutMs, undefined)
  })
  try {
    return await Promise.race([Promise.any(attempts), timeIsOver])
  } catch {
    return undefined
  } finally {
    clearTimeout(timer)
  }
}
