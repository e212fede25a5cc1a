/* eslint-disable no-console -- a program that prints */
/**
 * traffic-main.js PEER: runs in a container. Answers what its like in other containers asks,
 * and asks PEER: a probe with a sequence number each millisecond, transfers over TCP whose
 * content is checked, queries as a resolver makes them. A line on standard input, `begin` or
 * `report`, is answered with a line of JSON. Times are those of CLOCK_MONOTONIC, which all
 * processes of a machine share, in milliseconds.
 */
import { createHash, randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type Socket, connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TrafficReport } from './traffic.js'

const [PROBE_PORT, TRANSFER_PORT, QUERY_PORT] = [7000, 7001, 7002]

const PROBE_BYTES = 64

/** A reply that is later than this was lost, as far as an application is concerned. */
const PROBE_TIMEOUT_MS = 1500

const TRANSFER_BYTES = 256 << 10
const TRANSFER_PAUSE_MS = 100
const DIGEST_BYTES = 32

/** resolv.conf(5): timeout and attempts, with shorter times. */
const QUERY_TIMEOUT_MS = 1000
const QUERY_ATTEMPTS = 3
const QUERY_PAUSE_MS = 50
const [QUERY_BYTES, ANSWER_BYTES] = [44, 480]

const [, , peer = ''] = process.argv

const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

/** Sends its probes to the peer and keeps count of the replies. */
class Prober {
  #sent = 0
  #lost = 0
  #late = 0
  #lastReplyMs = nowMs()
  #gapMs = 0
  #gapAtMs = 0
  #lastLostMs: number | undefined
  #next = 0
  /** When each probe that is still waited for was sent, in their order. */
  readonly #waiting = new Map<number, number>()
  readonly #socket = createSocket('udp4')

  start(): void {
    // Refused by a gateway, and not the end of the probing.
    this.#socket.on('error', () => undefined)
    this.#socket.on('message', message => {
      this.#receive(message.readUInt32LE(0))
    })
    const startMs = nowMs()
    setInterval(() => {
      // One each millisecond, however late a busy machine calls; and never a burst of hundreds.
      const due = Math.min(Math.floor(nowMs() - startMs) - this.#next, 20)
      for (let count = 0; count < due; count++) this.#send()
      this.#next = Math.max(this.#next, Math.floor(nowMs() - startMs))
      this.#giveUp()
    }, 1)
  }

  begin(): void {
    this.#sent = this.#lost = this.#late = 0
    this.#gapMs = 0
    this.#gapAtMs = 0
    this.#lastReplyMs = nowMs()
    this.#lastLostMs = undefined
    this.#waiting.clear()
  }

  report(): Pick<
    TrafficReport,
    'sent' | 'lost' | 'late' | 'gapMs' | 'gapAtMs' | 'lastLostMs' | 'silentMs'
  > {
    const silentMs = nowMs() - this.#lastReplyMs
    return {
      sent: this.#sent,
      lost: this.#lost,
      late: this.#late,
      gapMs: Math.max(this.#gapMs, silentMs),
      gapAtMs: silentMs > this.#gapMs ? this.#lastReplyMs : this.#gapAtMs,
      lastLostMs: this.#lastLostMs,
      silentMs,
    }
  }

  #send(): void {
    this.#next += 1
    // Sent later, when the name of the peer has been looked up.
    const probe = Buffer.alloc(PROBE_BYTES)
    probe.writeUInt32LE(this.#next >>> 0, 0)
    this.#waiting.set(this.#next, nowMs())
    this.#sent += 1
    // What the kernel refuses is lost like what the network loses.
    this.#socket.send(probe, PROBE_PORT, peer, () => undefined)
  }

  #receive(sequence: number): void {
    if (!this.#waiting.delete(sequence)) {
      this.#late += 1
      return
    }
    const now = nowMs()
    const gapMs = now - this.#lastReplyMs
    if (gapMs > this.#gapMs) {
      this.#gapMs = gapMs
      this.#gapAtMs = this.#lastReplyMs
    }
    this.#lastReplyMs = now
  }

  #giveUp(): void {
    const limit = nowMs() - PROBE_TIMEOUT_MS
    for (const [sequence, sentMs] of this.#waiting) {
      if (sentMs > limit) return
      this.#waiting.delete(sequence)
      this.#lost += 1
      this.#lastLostMs = sentMs
    }
  }
}

const counts = {
  transfers: 0,
  brokenTransfers: 0,
  wrongTransfers: 0,
  queries: 0,
  failedQueries: 0,
}

function answer(): void {
  const probes = createSocket('udp4')
  probes.on('message', (message, { address, port }) => {
    probes.send(message, port, address, () => undefined)
  })
  probes.bind(PROBE_PORT)
  const queries = createSocket('udp4')
  queries.on('message', (message, { address, port }) => {
    const reply = Buffer.concat([message, Buffer.alloc(ANSWER_BYTES - message.length)])
    queries.send(reply, port, address, () => undefined)
  })
  queries.bind(QUERY_PORT)
  createServer(socket => {
    // Its peer is gone: the transfer is counted there.
    socket.on('error', () => socket.destroy())
    const content = randomBytes(TRANSFER_BYTES)
    socket.end(Buffer.concat([content, createHash('sha256').update(content).digest()]))
  }).listen(TRANSFER_PORT)
}

async function transfer(): Promise<void> {
  const socket: Socket = connect(TRANSFER_PORT, peer)
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.setTimeout(30_000, () => socket.destroy(new Error('nothing comes')))
  try {
    await once(socket, 'end')
  } catch {
    counts.brokenTransfers += 1
    return
  }
  const bytes = Buffer.concat(chunks)
  const content = bytes.subarray(0, -DIGEST_BYTES)
  const digest = createHash('sha256').update(content).digest()
  counts.transfers += 1
  if (content.length !== TRANSFER_BYTES || !digest.equals(bytes.subarray(-DIGEST_BYTES)))
    counts.wrongTransfers += 1
}

async function query(): Promise<void> {
  counts.queries += 1
  for (let attempt = 0; attempt < QUERY_ATTEMPTS; attempt++) {
    const socket = createSocket('udp4')
    const replied = once(socket, 'message', {
      signal: AbortSignal.timeout(QUERY_TIMEOUT_MS),
    })
    socket.send(randomBytes(QUERY_BYTES), QUERY_PORT, peer, () => undefined)
    const isAnswered = await replied.then(
      () => true,
      () => false,
    )
    socket.close()
    if (isAnswered) return
  }
  counts.failedQueries += 1
}

async function forever(act: () => Promise<void>, pauseMs: number): Promise<never> {
  for (;;) {
    await act()
    await sleep(pauseMs)
  }
}

answer()
const prober = new Prober()
prober.start()
void forever(transfer, TRANSFER_PAUSE_MS)
void forever(query, QUERY_PAUSE_MS)
createInterface({ input: process.stdin })
  .on('line', line => {
    if (line === 'begin') {
      prober.begin()
      for (const name of Object.keys(counts)) counts[name as keyof typeof counts] = 0
    }
    console.log(JSON.stringify({ ...prober.report(), ...counts }))
  })
  .on('close', () => process.exit())
console.log('ready')
