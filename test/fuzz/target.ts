type ErrorClass = abstract new (...args: never[]) => Error

export interface Target {
  readonly name: string
  readonly seeds: readonly (Buffer | string)[]
  /** Throws when something does not hold. */
  readonly run: (input: Buffer) => void | Promise<void>
  /** Ends what `run` has begun. */
  readonly close?: () => Promise<void>
  /** How it refuses what it cannot read; any other error is a defect. */
  readonly refusals?: readonly ErrorClass[]
}
