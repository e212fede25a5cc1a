import { get } from 'node:http'
import { z } from 'zod'
import type { CheckResult } from '../../lib/diagnosis/check.js'
import { baseAddress, firstHostAddress, formatAddress } from '../../lib/subnet/prefix.js'
import { parseSubnetText } from '../../lib/subnet/subnet-key.js'

/** The other host looks and pings itself, for some seconds. */
const TIMEOUT_MS = 20_000

const MAX_ANSWER = 64 << 10

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
  /** Of the other host. */
  readonly subnet: string
  readonly port: number
  /** The end that the other host has. */
  readonly from: string
  readonly to: string
}

export type PeerAnswer =
  | { readonly checks: readonly CheckResult[] }
  /** Why there is none. */
  | { readonly failure: string }

/** Asks another host, on its address in the overlay, for its half of the way between two addresses. */
export async function askPeer(question: PeerQuestion): Promise<PeerAnswer> {
  const failures: string[] = []
  // Where the device of the overlay has no address, the bridge of the containers has one.
  for (const range of parseSubnetText(question.subnet))
    for (const address of [baseAddress(range), firstHostAddress(range)]) {
      const answer = await ask(formatAddress(address), question)
      if ('checks' in answer) return answer
      failures.push(answer.failure)
      // A host that answers at all says what counts.
      if (answer.isSaid) return answer
    }
  return { failure: failures[0] ?? 'it has no subnet' }
}

async function ask(
  host: string,
  { port, from, to }: PeerQuestion,
): Promise<PeerAnswer & { isSaid?: boolean }> {
  return await new Promise(resolve => {
    const fail = (why: string, isSaid = false): void => {
      resolve({ failure: `${host} port ${port}: ${why}`, isSaid })
    }
    const options = { host, port, path: `/why?from=${from}&to=${to}`, agent: false }
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const sent = get({ ...options, signal }, response => {
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
        const said = text.parse(body)
        if (response.statusCode !== 200) fail(said, true)
        else resolve(readAnswer(body) ?? { failure: `${host} answers what is no answer` })
      })
    })
    sent.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED')
        fail('nobody listens: flanneld there does not run, or without this --peer-port')
      else fail(error.name === 'TimeoutError' ? 'no answer' : error.message)
    })
  })
}

function readAnswer(body: string): PeerAnswer | undefined {
  try {
    return answerSchema.safeParse(JSON.parse(body)).data
  } catch {
    return undefined
  }
}
