import { Session } from 'node:inspector/promises'

/** Ours, and none of the libraries' or of the fuzzer itself. */
const WATCHED = /\/dist\/(lib|cmd)\//

/** Which places of our code have been run, as V8 counts them. */
export class Coverage {
  readonly #session = new Session()
  readonly #seen = new Set<string>()

  async start(): Promise<void> {
    this.#session.connect()
    await this.#session.post('Profiler.enable')
    await this.#session.post('Profiler.startPreciseCoverage', {
      callCount: true,
      detailed: true,
    })
    await this.takeNew()
  }

  get size(): number {
    return this.#seen.size
  }

  /** How many places were run for the first time since the last call. */
  async takeNew(): Promise<number> {
    const { result } = await this.#session.post('Profiler.takePreciseCoverage')
    const before = this.#seen.size
    for (const { url, scriptId, functions } of result) {
      if (!WATCHED.test(url)) continue
      for (const { ranges } of functions)
        for (const { count, startOffset, endOffset } of ranges)
          if (count > 0) this.#seen.add(`${scriptId}:${startOffset}:${endOffset}`)
    }
    return this.#seen.size - before
  }
}
