import { rootCertificates } from 'node:tls'
import {
  type CallOptions,
  InterceptingCall,
  type Interceptor,
  status as Status,
} from '@grpc/grpc-js'
import { noop } from 'cockatiel'
import { Etcd3 } from 'etcd3'
import { CALL_TIMEOUT_MS, LOGIN_EXPIRED, isLoginUnknown } from './etcd-errors.js'
import type { TlsMaterial } from './tls-files.js'

/** etcd closes connections that ping oftener than every 5 s (--grpc-keepalive-min-time). */
const KEEPALIVE_MS = 10_000
const KEEPALIVE_TIMEOUT_MS = 5000

/** A page of long records may be more than gRPC's default of 4 MB. */
const MAX_ANSWER_BYTES = 256 << 20

export interface ClientOptions {
  /** For https. */
  readonly tls?: TlsMaterial
  /** The token of our login at the moment, if there is one. */
  readonly token?: () => string | undefined
}

/**
 * A client of one endpoint. etcd3 would pick a random endpoint for every call,
 * so that with one of two dead every second call fails; we stay with one that
 * works (EtcdCluster) and need neither its retry, which repeats transactions,
 * nor its circuit breaker, which refuses for 5 s when etcd is back, nor its
 * login, which opens a connection each time and closes none.
 */
export function openEtcdClient(
  endpoint: string,
  { tls, token = () => undefined }: ClientOptions = {},
): Etcd3 {
  const interceptors = [announceUs(token)]
  return new Etcd3({
    hosts: endpoint,
    ...(tls && {
      credentials: {
        rootCertificate: tls.ca ?? Buffer.from(rootCertificates.join('\n')),
        ...(tls.cert && tls.key && { certChain: tls.cert, privateKey: tls.key }),
      },
    }),
    defaultCallOptions: (call): CallOptions =>
      call.isStream
        ? { interceptors }
        : { interceptors, deadline: Date.now() + CALL_TIMEOUT_MS },
    faultHandling: { host: () => noop, global: noop },
    grpcOptions: {
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
      // The watch is a call that lasts; without one, etcd takes pings for abuse and closes.
      'grpc.keepalive_permit_without_calls': 0,
      'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
      // A dead connection is retried soon: the default backs off to two minutes.
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 2000,
    },
  })
}

/**
 * Adds to every call what etcd wants to know: who we are, and that a member
 * which has lost its quorum shall say so (clientv3.WithRequireLeader); otherwise
 * it keeps a watch silent for ever, and a read waiting.
 */
function announceUs(token: () => string | undefined): Interceptor {
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start: (metadata, _, next) => {
        metadata.set('hasleader', 'true')
        const ours = token()
        if (ours !== undefined) metadata.set('token', ours)
        next(metadata, {
          onReceiveStatus: (status, pass) => {
            // One text for all; and on one of etcd's own etcd3 repeats the call for ever.
            pass(
              isLoginUnknown(status.details)
                ? { ...status, code: Status.UNAUTHENTICATED, details: LOGIN_EXPIRED }
                : status,
            )
          },
        })
      },
    })
}
