/** What is wrong, and the command that mends it. */
export interface Finding {
  readonly what: string
  /** A command line, or what to do where no command does it; undefined when we know none. */
  readonly mend?: string | undefined
}

/** A look at one thing that may be wrong. */
export interface Check<Facts> {
  readonly name: string
  /**
   * Checks whose finding would explain this one's: the cause is named, and not
   * everything that comes of it.
   */
  readonly after: readonly string[]
  readonly find: (facts: Facts) => Finding | undefined
}

export interface CheckResult {
  readonly check: string
  /** `skipped`: something that it depends on is wrong. */
  readonly state: 'ok' | 'trouble' | 'skipped'
  readonly what: string | null
  readonly mend: string | null
}

/** Runs the checks in order. One that comes after a check that failed or was skipped is skipped. */
export function runChecks<Facts>(
  checks: readonly Check<Facts>[],
  facts: Facts,
): CheckResult[] {
  const bad = new Set<string>()
  return checks.map(({ name, after, find }) => {
    if (after.some(each => bad.has(each))) {
      bad.add(name)
      return { check: name, state: 'skipped', what: null, mend: null }
    }
    const finding = find(facts)
    if (finding === undefined) return { check: name, state: 'ok', what: null, mend: null }
    bad.add(name)
    const { what, mend = null } = finding
    return { check: name, state: 'trouble', what, mend }
  })
}
