import { rootCertificates } from 'node:tls'
import { type CallOptions, InterceptingCall, type Interceptor } from '@grpc/grpc-js'
import { noop } from 'cockatiel'
import {
  Etcd3,
  EtcdAuthenticationFailedError,
  EtcdInvalidAuthTokenError,
  EtcdPermissionDeniedError,
  GRPCDeadlineExceededError,
  GRPCFailedPreconditionError,
  GRPCInvalidArgumentError,
} from 'etcd3'
import { SubnetError } from './errors.js'

export interface EtcdOptions {
  /** URLs, http or https. */
  readonly endpoints: readonly string[]
  /** PEM texts. A CA alone is enough for TLS; certificate and key go together. */
  readonly ca?: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
  readonly username?: string
  readonly password?: string
}

/** Until a call without an answer is given up, in ms. A stopped server never answers by itself. */
export const CALL_TIMEOUT_MS = 5000

/** etcd closes connections that ping oftener than every 5 s (--grpc-keepalive-min-time). */
const KEEPALIVE_MS = 10_000
const KEEPALIVE_TIMEOUT_MS = 5000

/** 50,000 leases are 9 MB in one answer, more than gRPC's default of 4. */
const MAX_ANSWER_BYTES = 256 << 20

/**
 * A client of one endpoint. etcd3 would pick a random endpoint for every call,
 * so that with one of two dead every second call fails; we stay with one that
 * works (EtcdRegistry) and need neither its retry, which repeats transactions,
 * nor its circuit breaker, which refuses for 5 s when etcd is back.
 */
export function openEtcdClient(endpoint: string, options: EtcdOptions): Etcd3 {
  const { ca, cert, key, username, password } = options
  const secure = endpoint.startsWith('https:')
  return new Etcd3({
    hosts: endpoint,
    ...(secure && {
      credentials: {
        rootCertificate: ca ?? Buffer.from(rootCertificates.join('\n')),
        ...(cert && key && { certChain: cert, privateKey: key }),
      },
    }),
    ...(username !== undefined && { auth: { username, password: password ?? '' } }),
    defaultCallOptions: call =>
      call.isStream ? STREAM_OPTIONS : { deadline: Date.now() + CALL_TIMEOUT_MS },
    faultHandling: { host: () => noop, global: noop },
    grpcOptions: {
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
      'grpc.keepalive_permit_without_calls': 1,
      'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
      // A dead connection is retried soon: the default backs off to two minutes.
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 2000,
    },
  })
}

/**
 * Asks etcd to end a stream on a member that has lost its quorum
 * (clientv3.WithRequireLeader); otherwise it stays silent for ever.
 */
const requireLeader: Interceptor = (options, nextCall) =>
  new InterceptingCall(nextCall(options), {
    start: (metadata, listener, next) => {
      metadata.set('hasleader', 'true')
      next(metadata, listener)
    },
  })

const STREAM_OPTIONS: CallOptions = { interceptors: [requireLeader] }

/** Casts what etcd3 and gRPC throw to an error of ours, which says what the caller does. */
export function castEtcdError(error: unknown, endpoint: string): SubnetError {
  if (error instanceof SubnetError) return error
  const cause = error instanceof Error ? error : new Error(String(error))
  if (
    error instanceof EtcdPermissionDeniedError ||
    error instanceof EtcdAuthenticationFailedError ||
    error instanceof GRPCInvalidArgumentError ||
    error instanceof GRPCFailedPreconditionError
  ) {
    const message = `etcd at ${endpoint} refused: ${cause.message}; check --etcd-username, --etcd-password and the role of that user`
    return new SubnetError('ERR_REGISTRY_REFUSED', message, { cause })
  }
  if (error instanceof EtcdInvalidAuthTokenError) {
    return unavailable(endpoint, 'the login expired', cause)
  }
  if (error instanceof GRPCDeadlineExceededError) {
    return unavailable(endpoint, `no answer in ${CALL_TIMEOUT_MS / 1000} s`, cause)
  }
  return unavailable(endpoint, cause.message, cause)
}

function unavailable(endpoint: string, why: string, cause: Error): SubnetError {
  const message = `etcd at ${endpoint} is not available: ${why}`
  return new SubnetError('ERR_REGISTRY_UNAVAILABLE', message, { cause })
}
