import { type Socket, connect } from 'node:net'
import type { ForwardingState } from '../../encap/forwarding-table.js'
import {
  FrameReader,
  type PathHello,
  PathMessage,
  type PathMessageType,
  type PathStatistics,
  decodeHello,
  decodeStatistics,
  encodeForwarding,
  encodeFrame,
  encodePermit,
} from '../../encap/path-control.js'
import { BackendError } from '../errors.js'

/** A path that has not answered for so long hangs. Its batches take well under a millisecond. */
const REPLY_TIMEOUT_MS = 3000

interface Waiting {
  readonly type: PathMessageType
  resolve(payload: Buffer): void
  reject(error: Error): void
}

/** The daemon's end of the control socket. Replies come in the order of the requests. */
export class PathClient {
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>
  readonly #socket: Socket
  readonly #frames = new FrameReader()
  readonly #waiting: Waiting[] = []

  private constructor(socket: Socket) {
    this.#socket = socket
    this.closed = new Promise(resolve => {
      socket.once('close', () => {
        this.#failAll('the packet path closed its control socket')
        resolve()
      })
    })
    socket.on('data', chunk => {
      this.#take(chunk)
    })
    socket.on('error', () => undefined) // 'close' follows
  }

  /** Connects to the path that listens at `path`; undefined when none does. */
  static async connect(path: string): Promise<PathClient | undefined> {
    const socket = connect(path)
    return await new Promise((resolve, reject) => {
      socket.once('connect', () => {
        resolve(new PathClient(socket))
      })
      socket.once('error', (error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined)
        else reject(error)
      })
    })
  }

  async hello(timeoutMs = REPLY_TIMEOUT_MS): Promise<PathHello> {
    const reply = await this.#request(PathMessage.hello, undefined, timeoutMs)
    return decoded(decodeHello, reply)
  }

  /** Resolves once the state is in force. */
  async forward(state: ForwardingState): Promise<void> {
    await this.#request(PathMessage.forwarding, encodeForwarding(state))
  }

  /** @param untilMs CLOCK_BOOTTIME. */
  async permit(untilMs: number): Promise<void> {
    await this.#request(PathMessage.permit, encodePermit(untilMs))
  }

  async statistics(): Promise<PathStatistics> {
    return decoded(decodeStatistics, await this.#request(PathMessage.statistics))
  }

  /** Tells the path to end and waits until it has. */
  async stop(): Promise<void> {
    await this.#request(PathMessage.stop)
    await this.closed
  }

  /** Leaves the path running. */
  close(): void {
    this.#socket.destroy()
  }

  async #request(
    type: PathMessageType,
    payload: Uint8Array = Buffer.alloc(0),
    timeoutMs = REPLY_TIMEOUT_MS,
  ): Promise<Buffer> {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        // Later replies could no longer be told apart: the connection is of no use.
        this.#socket.destroy()
      }, timeoutMs)
      const settle = (): void => {
        clearTimeout(timer)
      }
      this.#waiting.push({
        type,
        resolve: reply => {
          settle()
          resolve(reply)
        },
        reject: error => {
          settle()
          reject(error)
        },
      })
      if (this.#socket.destroyed) this.#failAll('the packet path is gone')
      else this.#socket.write(encodeFrame(type, payload))
    })
  }

  #take(chunk: Buffer): void {
    try {
      for (const { type, payload } of this.#frames.push(chunk)) {
        const [waiting] = this.#waiting
        if (waiting?.type !== type)
          throw new RangeError(`unexpected control message ${type}`)
        this.#waiting.shift()
        waiting.resolve(payload)
      }
    } catch (error) {
      this.#socket.destroy(error as Error)
    }
  }

  #failAll(why: string): void {
    for (const waiting of this.#waiting.splice(0)) {
      waiting.reject(new BackendError('ERR_PATH', why))
    }
  }
}

/** What cannot be read comes from a path that is broken, or from none of ours: it is replaced. */
function decoded<T>(decode: (payload: Buffer) => T, payload: Buffer): T {
  try {
    return decode(payload)
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    const message = `the packet path answers nonsense: ${cause.message}`
    throw new BackendError('ERR_PATH', message, { cause })
  }
}
