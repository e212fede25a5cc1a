const SUBTEST = /^( *)# Subtest: (.*)$/
const POINT = /^( *)(not )?ok \d+(?: - )?(.*?)(?: # (?:(SKIP|TODO)\b.*|time=(.*)))?$/i
const DETAILS = /^ *---$/
const END_OF_DETAILS = /^ *\.\.\.$/

/**
 * Reads tap's output (TAP 14) line by line, shows a line for each test file and
 * all of what a failed one said, and counts assertions: the points that are not
 * the sum of points below them. A file that fails without one that failed, for
 * it crashed or took too long, counts as a failed assertion itself.
 */
export class TapReport {
  passed = 0
  failed = 0
  /** The file's lines so far. */
  #block = []
  #inDetails = false
  #blockFailed = false
  /** By depth: what had failed when the subtest began whose point comes at this depth. */
  #open = new Map()
  /** What had passed before the file. */
  #passedBefore = 0
  #show

  constructor(show) {
    this.#show = show
  }

  push(line) {
    const subtest = this.#inDetails ? null : SUBTEST.exec(line)
    if (subtest !== null) this.#begin(subtest[1].length)
    this.#block.push(line)
    if (this.#inDetails) {
      if (END_OF_DETAILS.test(line)) this.#inDetails = false
      return
    }
    if (DETAILS.test(line)) {
      this.#inDetails = true
      return
    }
    const point = POINT.exec(line)
    if (point !== null) this.#count(point)
  }

  /** To be called after the last line; a failure's details follow its point. */
  end() {
    this.#flush()
  }

  #begin(depth) {
    if (depth === 0) {
      this.#flush()
      this.#passedBefore = this.passed
    }
    this.#open.set(depth, this.failed)
  }

  #count([, indent, not, name, directive, time = '']) {
    const depth = indent.length
    const failedBefore = this.#open.get(depth)
    this.#open.delete(depth)
    const isSum = failedBefore !== undefined
    if (not !== undefined && directive === undefined) {
      if (!isSum || failedBefore === this.failed) this.failed += 1
      this.#blockFailed = true
    } else if (!isSum && directive === undefined) {
      this.passed += 1
    }
    if (depth === 0 && not === undefined) {
      this.#show(`ok ${name} (${this.passed - this.#passedBefore} passed, ${time})`)
      this.#block = []
    }
  }

  #flush() {
    if (this.#blockFailed) for (const line of this.#block) this.#show(line)
    this.#block = []
    this.#blockFailed = false
  }
}
