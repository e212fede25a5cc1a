/**
 * Sends ICMP echo requests to several hosts at once and prints what came back
 * as JSON. A program of its own because it runs inside a network namespace;
 * ours because ping(8) is not on every machine and tells of errors in prose.
 *
 * Argument: a PingOrder. SIGTERM ends it early, once it has printed an empty line.
 */
import { setImmediate } from 'node:timers/promises'
import * as libc from '../../../lib/linux/libc.js'
import { EchoSocket } from './echo-socket.js'
import type { PingOrder, PingResult } from './ping.js'

class Target {
  readonly address: string
  readonly #sentAt: number[] = []
  readonly #rttsMs = new Map<number, number>()
  readonly #errors = new Set<string>()

  constructor(address: string) {
    this.address = address
  }

  get settled(): boolean {
    return this.#errors.size > 0 || this.#rttsMs.size === this.#sentAt.length
  }

  send(socket: EchoSocket, sequence: number): void {
    this.#sentAt[sequence] = libc.bootTimeMs()
    const refusal = socket.send(this.address, sequence)
    if (refusal !== undefined) this.#errors.add(refusal)
  }

  /** @param sequence 16 bits: of all that have these, the last that was sent is meant. */
  answered(sequence: number): void {
    const last = this.#sentAt.length - 1
    const index = last - ((last - sequence) & 0xffff)
    const sentAt = this.#sentAt[index]
    // A second answer to the same request is none.
    if (sentAt === undefined || this.#rttsMs.has(index)) return
    this.#rttsMs.set(index, libc.bootTimeMs() - sentAt)
  }

  failed(error: string): void {
    this.#errors.add(error)
  }

  result(): PingResult {
    const sorted = [...this.#rttsMs.values()].sort((a, b) => a - b)
    const median = sorted[sorted.length >> 1]
    return {
      target: this.address,
      sent: this.#sentAt.length,
      received: sorted.length,
      ...(median !== undefined && { rttMs: Number(median.toFixed(3)) }),
      errors: [...this.#errors],
    }
  }
}

async function main(order: PingOrder): Promise<PingResult[]> {
  const { count, intervalMs, timeoutMs } = order
  const socket = new EchoSocket(order)
  const targets = order.targets.map(address => new Target(address))
  const stop = new AbortController()
  const stopped = (): boolean => stop.signal.aborted
  process.once('SIGTERM', () => {
    stop.abort()
  })

  process.stdout.write('\n')

  const receiveUntil = async (endMs: number, done: () => boolean): Promise<void> => {
    for (;;) {
      if (done()) return
      // Who wakes up late has answers that came in time.
      const leftMs = Math.max(0, endMs - libc.bootTimeMs())
      for (const { from, sequence, error } of socket.receive(Math.min(leftMs, 20))) {
        const target = targets.find(({ address }) => address === from)
        if (error !== undefined) target?.failed(error)
        else target?.answered(sequence)
      }
      if (leftMs === 0) return
      await setImmediate() // lets a signal in
    }
  }
  for (let sequence = 0; sequence < count && !stopped(); sequence++) {
    for (const target of targets) target.send(socket, sequence)
    if (sequence + 1 < count) await receiveUntil(libc.bootTimeMs() + intervalMs, stopped)
  }
  const allSettled = (): boolean => targets.every(({ settled }) => settled)
  await receiveUntil(libc.bootTimeMs() + timeoutMs, allSettled)
  return targets.map(target => target.result())
}

const order = JSON.parse(process.argv[2] ?? '{}') as PingOrder
process.stdout.write(`${JSON.stringify(await main(order))}\n`)
