import { request } from 'node:http'
import { z } from 'zod'
import { isJsonObject } from '../../lib/subnet/go-json.js'
import type { PLACE_FLAGS } from '../flanneld/flag-table.js'
import type { Flags } from '../flanneld/parse-flags.js'
import { placesOf } from '../flanneld/places.js'
import { type DaemonStatus, statusSchema } from '../flanneld/status-schema.js'
import { cleanPrefix } from '../../lib/subnet/subnet-key.js'
import { CommandFailure } from './command.js'

export type { DaemonStatus }

/** A daemon answers at once; one that does not within so long hangs. */
const TIMEOUT_MS = 5000

export type StatusFlags = Flags<typeof PLACE_FLAGS> & { readonly 'etcd-prefix': string }

/**
 * Asks the daemon of this host and prefix. Undefined when none runs. Throws
 * CommandFailure when it cannot be asked or does not answer.
 */
export async function askDaemon(flags: StatusFlags): Promise<DaemonStatus | undefined> {
  const { statusSocket } = placesOf(flags)
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

const leaseTimesSchema = z.record(z.string(), z.number().nullable())

/**
 * Seconds that etcd keeps the record of each subnet, by the daemon's word; none where it
 * cannot ask etcd in time, or is of a version that does not.
 */
export async function askLeaseTimes(
  flags: StatusFlags,
): Promise<ReadonlyMap<string, number | null>> {
  const { statusSocket } = placesOf(flags)
  // Nothing that matters waits for a slow etcd.
  const answer = await call(statusSocket, 'GET', '/lease-times').catch(() => undefined)
  const parsed = leaseTimesSchema.safeParse(
    answer?.code === 200 ? parse(answer.body) : undefined,
  )
  return new Map(Object.entries(parsed.data ?? {}))
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
  const { statusSocket } = placesOf(flags)
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
    const fail = (error: NodeJS.ErrnoException): void => {
      reject(cannotAsk(socketPath, error))
    }
    const sent = request(options, response => {
      let body = ''
      response.on('error', fail)
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
      else fail(error)
    })
    sent.end()
  })
}

function cannotAsk(socketPath: string, error: NodeJS.ErrnoException): Error {
  if (error instanceof CommandFailure) return error
  if (error.code === 'ECONNRESET' || error.code === 'EPIPE')
    return new CommandFailure(
      `the daemon at ${socketPath} ended before it answered; ask again`,
    )
  const hint = error.code === 'EACCES' ? '; run flannelctl as root' : ''
  return new CommandFailure(
    `cannot ask the daemon at ${socketPath}: ${error.message}${hint}`,
  )
}
