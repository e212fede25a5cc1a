import { z } from 'zod'
import { explainIp } from './ip-batch.js'
import { type RunOptions, run } from './run.js'

/**
 * What iproute2 tells of the kernel's links, addresses, routes and neighbours:
 * operators can replay every line. What changes them is ip-batch.ts.
 */

export type IpFamily = 4 | 6

/** What ip(8) prints with -json. Throws CommandError, or NotThereError. */
export async function ipJson(
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  try {
    return await run('ip', ['-json', ...args], options)
  } catch (error) {
    throw explainIp(error)
  }
}

/** Checks what iproute2 printed, which is nothing at all where an empty list is meant. Throws SyntaxError. */
export function parseIpJson<Schema extends z.ZodType>(
  text: string,
  schema: Schema,
): z.output<Schema> {
  try {
    return schema.parse(text.trim() === '' ? [] : JSON.parse(text))
  } catch (cause) {
    const why = cause instanceof z.ZodError ? z.prettifyError(cause) : String(cause)
    throw new SyntaxError(`cannot read what ip(8) printed: ${why}`, { cause })
  }
}
