import { type IncomingMessage, get } from 'node:http'
import { z } from 'zod'

const TIMEOUT_MS = 10_000

/** Some ten thousand containers. */
const MAX_ANSWER = 64 << 20

/** What may change which containers there are, what they are called, and their addresses. */
const EVENTS = ['start', 'die', 'rename', 'connect', 'disconnect']

const network = z.looseObject({
  IPAddress: z.string().nullish(),
  GlobalIPv6Address: z.string().nullish(),
})

const containersSchema = z.array(
  z.looseObject({
    Id: z.string(),
    Names: z.array(z.string()).nullish(),
    NetworkSettings: z
      .looseObject({ Networks: z.record(z.string(), network).nullish() })
      .nullish(),
  }),
)

export interface Container {
  readonly id: string
  readonly name: string
  /** As the engine writes them, of all its networks; none of a network of the host's own. */
  readonly addresses: readonly string[]
}

/** What a Docker engine tells over its socket. Nothing is asked of it but to tell. */
export class DockerEngine {
  readonly #socketPath: string

  constructor(socketPath: string) {
    this.#socketPath = socketPath
  }

  /** Those that run. Throws Error when the engine does not answer, or not as it should. */
  async containers(): Promise<Container[]> {
    const response = await this.#get('/containers/json', AbortSignal.timeout(TIMEOUT_MS))
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) {
      text += String(chunk)
      if (text.length > MAX_ANSWER) throw new Error('the list of containers is too long')
    }
    return containersSchema.parse(JSON.parse(text)).map(container => {
      const { Id, Names, NetworkSettings } = container
      // Others are names by which linked containers know it: /other/alias.
      const name = Names?.find(each => /^\/[^/]+$/.test(each)) ?? ''
      const networks = Object.values(NetworkSettings?.Networks ?? {})
      return {
        id: Id,
        name: name.slice(1),
        addresses: networks.flatMap(({ IPAddress, GlobalIPv6Address }) =>
          [IPAddress, GlobalIPv6Address].filter(each => each != null && each !== ''),
        ) as string[],
      }
    })
  }

  /**
   * Yields the containers at first and whenever something may have changed; what
   * happens while nobody asks is one change. Returns when `signal` aborts; throws Error
   * when the engine is not there any more.
   *
   * @param settle is waited for between a change and the list of what it led to.
   */
  async *follow(
    settle: () => Promise<void>,
    signal: AbortSignal,
  ): AsyncGenerator<readonly Container[]> {
    const filters = JSON.stringify({ type: ['container', 'network'], event: EVENTS })
    try {
      const path = `/events?filters=${encodeURIComponent(filters)}`
      const response = await this.#get(path, signal)
      yield await this.containers()
      // What an event says does not count: the list does.
      for await (const chunk of response) {
        if (chunk === '') continue
        await settle()
        yield await this.containers()
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
    if (!signal.aborted) throw new Error('the Docker engine has ended')
  }

  async #get(path: string, signal: AbortSignal): Promise<IncomingMessage> {
    return await new Promise((resolve, reject) => {
      const options = {
        socketPath: this.#socketPath,
        // Without a version the engine takes its own.
        path,
        headers: { host: 'docker' },
        agent: false,
        signal,
      }
      const sent = get(options, response => {
        clearTimeout(timer)
        if (response.statusCode === 200) resolve(response)
        else {
          response.destroy()
          reject(new Error(`the Docker engine answers ${response.statusCode ?? 0}`))
        }
      }).on('error', error => {
        clearTimeout(timer)
        reject(error)
      })
      const timer = setTimeout(() => {
        sent.destroy(new Error('the Docker engine does not answer'))
      }, TIMEOUT_MS)
    })
  }
}
