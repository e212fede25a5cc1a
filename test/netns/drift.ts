import type { Test } from 'tap'
import { waitFor } from '../helpers/wait-for.js'

/** One thing that somebody does to a host, and what it is called. */
export type Drift = readonly [what: string, change: () => Promise<unknown>]

/** Does it, and prints how long it is until the host is as it was. */
export async function expectRepair(
  t: Test,
  [what, change]: Drift,
  state: () => Promise<string>,
  right: string,
): Promise<void> {
  await change()
  const begin = performance.now()
  const isRight = async (): Promise<boolean> => (await state()) === right
  await waitFor(what, isRight).catch(async (error: unknown) => {
    t.equal(await state(), right, `${what}: ${String(error)}`)
  })
  t.pass(`${what}: right after ${(performance.now() - begin).toFixed(0)} ms`)
}
