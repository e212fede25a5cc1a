/** Of this many echoes the loss and the round-trip time are told. */
const WINDOW = 20

/** What became of the latest echoes of one kind to one remote. */
export class EchoWindow {
  /** Milliseconds, or undefined for one that was lost; the oldest first. */
  #outcomes: readonly (number | undefined)[] = []

  add(roundTripMs: number | undefined): void {
    this.#outcomes = [...this.#outcomes, roundTripMs].slice(-WINDOW)
  }

  /** Whether one of the latest `count` came back; undefined before there are so many or one has. */
  answered(count: number): boolean | undefined {
    const latest = this.#outcomes.slice(-count)
    if (latest.some(outcome => outcome !== undefined)) return true
    return latest.length < count ? undefined : false
  }

  /** Of the latest that came back; undefined when none did. */
  get roundTripMs(): number | undefined {
    return this.#outcomes.findLast(outcome => outcome !== undefined)
  }

  /** Between 0 and 1; undefined before there is any. */
  get loss(): number | undefined {
    const { length } = this.#outcomes
    if (length === 0) return undefined
    return this.#outcomes.filter(outcome => outcome === undefined).length / length
  }
}
