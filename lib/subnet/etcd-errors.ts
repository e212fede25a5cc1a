import {
  EtcdAuthenticationFailedError,
  EtcdPermissionDeniedError,
  GRPCDeadlineExceededError,
  GRPCFailedPreconditionError,
  GRPCInvalidArgumentError,
} from 'etcd3'
import { SubnetError } from './errors.js'
import { type TlsMaterial, endOfCertificate } from './tls-files.js'

/** Until a call without an answer is given up, in ms. A stopped server never answers by itself. */
export const CALL_TIMEOUT_MS = 5000

/** Where a call went, for the message and its advice. */
export interface CallTarget {
  /** URL of the endpoint. */
  readonly endpoint: string
  readonly tls?: TlsMaterial
  readonly username?: string
}

/** What a call fails with when etcd does not know our login. */
export const LOGIN_EXPIRED = 'the login has expired'

/**
 * etcd does not know our token (any more): it ran out, etcd restarted, or users
 * and roles have changed since (clientv3 logs in again on the same three).
 *
 * @param text what etcd says.
 */
export function isLoginUnknown(text: string): boolean {
  return /etcdserver: (invalid auth token|revision of auth store is old|user name is empty)/.test(
    text,
  )
}

export function isLoginExpired(error: unknown): boolean {
  return error instanceof Error && error.message.includes(LOGIN_EXPIRED)
}

/** etcd has no users yet. clientv3 goes on without a login then. */
export function isLoginNeedless(error: unknown): boolean {
  return error instanceof Error && error.message.includes('authentication is not enabled')
}

/** Casts what etcd3 and gRPC throw to an error of ours, which says what the caller does. */
export function castEtcdError(error: unknown, target: CallTarget): SubnetError {
  if (error instanceof SubnetError) return error
  const cause = error instanceof Error ? error : new Error(String(error))
  if (cause.message.includes('revision has been compacted'))
    return new SubnetError('ERR_REVISION_COMPACTED', bare(cause.message), { cause })
  if (cause.message.includes('is a future revision'))
    return new SubnetError('ERR_REVISION_REGRESSED', bare(cause.message), { cause })
  const isRefusal =
    error instanceof EtcdPermissionDeniedError ||
    error instanceof EtcdAuthenticationFailedError ||
    (isLoginExpired(error) && target.username === undefined) ||
    error instanceof GRPCInvalidArgumentError ||
    error instanceof GRPCFailedPreconditionError ||
    // A cancelled watch brings no more than this text.
    cause.message.includes('permission denied')
  if (isRefusal) {
    const message = `etcd at ${target.endpoint} refused: ${describeRefusal(cause.message, target)}`
    return new SubnetError('ERR_REGISTRY_REFUSED', message, { cause })
  }
  const why =
    error instanceof GRPCDeadlineExceededError
      ? `no answer in ${CALL_TIMEOUT_MS / 1000} s`
      : describeFailure(cause.message, target)
  const message = `etcd at ${target.endpoint} is not available: ${why}`
  return new SubnetError('ERR_REGISTRY_UNAVAILABLE', message, { cause })
}

function describeRefusal(text: string, { username }: CallTarget): string {
  if (text.includes('authentication failed'))
    return `user ${username} or the password is wrong; check --etcd-username and --etcd-password-file`
  if (text.includes('permission denied')) {
    const who = username === undefined ? 'we have' : `user ${username} has`
    return `permission denied: ${who} no role for this; "flannelctl etcd-role" prints what is needed`
  }
  if (text.includes(LOGIN_EXPIRED))
    return 'it wants a user and password; set --etcd-username and --etcd-password-file'
  return bare(text)
}

/** What gRPC or OpenSSL says, and what that means to an operator. The first that fits counts. */
const FAILURES: readonly (readonly [
  RegExp,
  string | ((target: CallTarget) => string),
])[] = [
  [/ECONNREFUSED/, 'connection refused'],
  [/EHOSTUNREACH|ENETUNREACH/, 'no route to it'],
  [/Name resolution failed/, 'its name cannot be resolved'],
  [
    /certificate has expired/,
    "its certificate has expired, or this host's clock is wrong",
  ],
  [
    /certificate is not yet valid/,
    "its certificate is not valid yet, or this host's clock is wrong",
  ],
  [
    /unable to (verify|get)|self.signed certificate/,
    'its certificate is not from an authority that we trust; check --etcd-cafile',
  ],
  [/does not match certificate/, describeName],
  [/alert|handshake failure/, describeAlert],
  [
    /wrong version number|packet length too long|before secure TLS connection/,
    'no TLS with it; if it speaks none, http:// is right',
  ],
  [/Failed to connect/, 'it hung up; if it speaks TLS, https:// is right'],
  [/No connection established.*(ECONNRESET|EPIPE)/, describeHangUp],
  [/Connection dropped|ECONNRESET|EPIPE/, 'the connection broke'],
  [/no leader/, 'it is cut off from the other members (no leader)'],
  [/request timed out/, 'it cannot reach the other members (request timed out)'],
]

function describeFailure(text: string, target: CallTarget): string {
  const [, meaning] = FAILURES.find(([pattern]) => pattern.test(text)) ?? []
  if (meaning === undefined) return bare(text)
  return typeof meaning === 'string' ? meaning : meaning(target)
}

function describeName({ endpoint }: CallTarget): string {
  return `its certificate is not for ${new URL(endpoint).hostname}; name it in --etcd-endpoints as its certificate does`
}

/** What speaks no TLS answers in plain text, or hangs up, whichever is faster. */
function describeHangUp({ endpoint }: CallTarget): string {
  return endpoint.startsWith('https:')
    ? 'it hung up on TLS; if it speaks none, http:// is right'
    : 'the connection broke'
}

/** The server has refused our side of the handshake; the alert says little of why. */
function describeAlert({ tls }: CallTarget): string {
  if (tls?.cert === undefined)
    return 'it wants a client certificate; set --etcd-certfile and --etcd-keyfile'
  const end = endOfCertificate(tls.cert)
  return end < Date.now()
    ? `our certificate in --etcd-certfile expired on ${new Date(end).toISOString()}`
    : 'it does not accept our certificate; check --etcd-certfile against its --trusted-ca-file'
}

/** Without gRPC's wrapping, and without times, so that the same failure reads the same. */
function bare(text: string): string {
  return text
    .replace(/^\d+ [A-Z_]+: /, '')
    .replace(/^No connection established\. Last error: (Error: )?/, '')
    .replace(/\s*(\(\d{4}-[^)]*Z\))?\. Resolution note:[^]*$/, '')
    .replace(/^etcdserver: /, '')
}
