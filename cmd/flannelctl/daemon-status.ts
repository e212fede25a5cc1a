import { request } from 'node:http'
import { z } from 'zod'
import { isJsonObject } from '../../lib/subnet/go-json.js'
import type { PLACE_FLAGS } from '../flanneld/flag-table.js'
import type { Flags } from '../flanneld/parse-flags.js'
import { placesOf } from '../flanneld/places.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { CommandFailure } from './command.js'

/** A daemon answers at once; one that does not within so long hangs. */
const TIMEOUT_MS = 5000

export type StatusFlags = Flags<typeof PLACE_FLAGS> & { readonly 'etcd-prefix': string }

const lease = z.looseObject({
  subnet: z.string(),
  key: z.string(),
  expiresInSeconds: z.number().nullable(),
  record: z.looseObject({
    PublicIP: z.string(),
    HostID: z.string().optional(),
  }),
})

/** What is measured of the way to a remote, once the daemon measures it. */
const path = z.looseObject({
  state: z.enum(['unknown', 'up', 'silent', 'unreachable']),
  roundTripMs: z.number().nullable(),
  loss: z.number().nullable(),
  overlayRoundTripMs: z.number().nullable(),
  overlayLoss: z.number().nullable(),
  pathMtu: z.number().nullable(),
  trouble: z.string().nullable(),
})

/** Of backends that keep one with each remote. */
const session = z.object({
  handshakeSeconds: z.number().nullable(),
  sentBytes: z.number(),
  receivedBytes: z.number(),
  trouble: z.string().nullable(),
})

const remote = z.looseObject({
  subnet: z.string(),
  device: z.string().optional(),
  /** By which each family of the subnet leaves, where they differ. */
  devices: z.array(z.string()).optional(),
  nextHop: z.string().optional(),
  path: path.optional(),
  session: session.optional(),
  record: z.looseObject({
    PublicIP: z.string(),
    PublicIPv6: z.string().nullish(),
    BackendType: z.string().optional(),
    HostID: z.string().optional(),
  }),
})

/** What we rely on in a daemon's answer; the sections come when the daemon has got that far. */
const statusSchema = z.looseObject({
  pid: z.number(),
  version: z.string().optional(),
  phase: z.enum(['starting', 'waiting', 'ready', 'stopping']),
  waitingFor: z.string().optional(),
  etcdReachable: z.boolean(),
  troubles: z.record(z.string(), z.string()),
  notes: z.record(z.string(), z.string()),
  ignoredRecords: z.array(z.looseObject({ key: z.string(), why: z.string() })),
  networks: z.array(z.string()).optional(),
  lease: lease.optional(),
  backend: z
    .looseObject({
      type: z.string(),
      device: z.string(),
      mtu: z.number().optional(),
      listen: z.string().optional(),
      carriedBy: z.string().optional(),
    })
    .optional(),
  underlay: z
    .looseObject({
      device: z.string(),
      mtu: z.number(),
      addresses: z.array(z.string()),
      carrier: z.string(),
      longest: z.number(),
      isAnsweredAtBase: z.boolean(),
      hasMtuOption: z.boolean(),
      ports: z.array(z.number()),
      peerPort: z.number(),
    })
    .optional(),
  remotes: z.array(remote).optional(),
  probes: z.looseObject({ trouble: z.string().nullable() }).optional(),
})

export type DaemonStatus = z.infer<typeof statusSchema>

/**
 * Asks the daemon of this host and prefix. Undefined when none runs. Throws
 * CommandFailure when it cannot be asked or does not answer.
 */
export async function askDaemon(flags: StatusFlags): Promise<DaemonStatus | undefined> {
  const prefix = cleanPrefix(flags['etcd-prefix'])
  const { statusSocket } = placesOf({ ...flags, 'etcd-prefix': prefix })
  const text = await getStatus(statusSocket)
  if (text === undefined) return undefined
  const parsed = statusSchema.safeParse(parse(text))
  if (parsed.success) return parsed.data
  throw new CommandFailure(
    `the daemon at ${statusSocket} answers in a way that this flannelctl does not understand; is it of another version?`,
  )
}

function parse(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text)
    return isJsonObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

async function getStatus(socketPath: string): Promise<string | undefined> {
  const answer = await call(socketPath, 'GET', '/status')
  return answer?.body
}

/**
 * Asks the daemon to do something. Throws CommandFailure when none runs or it
 * has nothing to do that with.
 */
export async function tellDaemon(
  flags: StatusFlags,
  action: 'apply-config' | 'release-lease',
): Promise<void> {
  const prefix = cleanPrefix(flags['etcd-prefix'])
  const { statusSocket } = placesOf({ ...flags, 'etcd-prefix': prefix })
  const answer = await call(statusSocket, 'POST', `/${action}`)
  if (answer === undefined) {
    throw new CommandFailure(`no flanneld for --etcd-prefix ${prefix} runs on this host`)
  }
  if (answer.code !== 202) {
    throw new CommandFailure(
      'the daemon has not joined a network yet; flannelctl status says why',
    )
  }
}

/** One request to a daemon's socket; undefined when nobody listens there. */
async function call(
  socketPath: string,
  method: string,
  path: string,
): Promise<{ code: number | undefined; body: string } | undefined> {
  return await new Promise((resolve, reject) => {
    const options = { socketPath, method, path, timeout: TIMEOUT_MS }
    const sent = request(options, response => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('end', () => {
        resolve({ code: response.statusCode, body })
      })
    })
    sent.on('timeout', () => {
      sent.destroy(new CommandFailure(`the daemon at ${socketPath} does not answer`))
    })
    sent.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined)
      else reject(cannotAsk(socketPath, error))
    })
    sent.end()
  })
}

function cannotAsk(socketPath: string, error: NodeJS.ErrnoException): Error {
  if (error instanceof CommandFailure) return error
  const hint = error.code === 'EACCES' ? '; run flannelctl as root' : ''
  return new CommandFailure(
    `cannot ask the daemon at ${socketPath}: ${error.message}${hint}`,
  )
}
