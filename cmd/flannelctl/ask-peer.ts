import { randomInt } from 'node:crypto'
import { get } from 'node:http'
import { z } from 'zod'
import type { CheckResult } from '../../lib/diagnosis/check.js'

/** The other host looks and pings itself, for some seconds. */
const TIMEOUT_MS = 20_000

const MAX_ANSWER = 64 << 10

/** Privileged, and beyond those of known services; the upper one is not among them. */
const LOCAL_PORTS = [768, 1024] as const

/** What another host may make us print: no control characters, no endless lines. */
const text = z.string().transform(each => each.replace(/\p{C}/gu, '').slice(0, 1000))

const answerSchema = z.object({
  checks: z
    .array(
      z.object({
        check: text,
        state: z.enum(['ok', 'trouble', 'skipped']),
        what: text.nullable(),
        mend: text.nullable(),
      }),
    )
    .max(100),
})

export interface PeerQuestion {
  /** Of the other host, in the overlay. */
  readonly host: string
  readonly port: number
  /** The end that the other host has. */
  readonly from: string
  readonly to: string
}

export type PeerAnswer =
  | { readonly checks: readonly CheckResult[] }
  /** Why there is none. */
  | { readonly failure: string }

/**
 * Asks another host, on its address in the overlay, for its half of the way between
 * two addresses. From a privileged port, as it wants it, and of one: no user of that
 * host can answer in its place.
 */
export async function askPeer(question: PeerQuestion): Promise<PeerAnswer> {
  const { host, port, from, to } = question
  return await new Promise(resolve => {
    const fail = (why: string): void => {
      resolve({ failure: `${host} port ${port}: ${why}` })
    }
    const options = {
      host,
      port,
      path: `/why?from=${from}&to=${to}`,
      agent: false,
      localPort: randomInt(...LOCAL_PORTS),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }
    const sent = get(options, response => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk
        if (body.length > MAX_ANSWER)
          response.destroy(new Error('its answer is too long'))
      })
      response.on('error', error => {
        fail(error.message)
      })
      response.on('end', () => {
        if (response.statusCode !== 200) fail(text.parse(body))
        else resolve(readAnswer(body) ?? { failure: `${host} answers what is no answer` })
      })
    })
    sent.on('error', (error: NodeJS.ErrnoException) => {
      const isLate = error.name === 'AbortError' || error.name === 'TimeoutError'
      fail(isLate ? 'no answer' : (REASONS[error.code ?? ''] ?? error.message))
    })
  })
}

/** In the operator's words. */
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED:
    'nobody listens: flanneld there does not run, or without this --peer-port',
  ECONNRESET: 'it does not hear this host: it does not know it as one of the overlay',
}

function readAnswer(body: string): PeerAnswer | undefined {
  try {
    return answerSchema.safeParse(JSON.parse(body)).data
  } catch {
    return undefined
  }
}
