import type { LoadFnOutput, LoadHookContext } from 'node:module'
import { fileURLToPath } from 'node:url'
import { readFile } from 'node:fs/promises'
import type { PlantedBug } from './planted-bugs.js'

let bug: PlantedBug | undefined

export function initialize(data: PlantedBug): void {
  bug = data
}

/** Loads the one file with the bug in it, and every other as it is. */
export async function load(
  url: string,
  context: LoadHookContext,
  nextLoad: (url: string, context: LoadHookContext) => Promise<LoadFnOutput>,
): Promise<LoadFnOutput> {
  if (bug === undefined || !url.endsWith(`/dist/lib/${bug.file}`))
    return await nextLoad(url, context)
  const parts = (await readFile(fileURLToPath(url), 'utf8')).split(bug.find)
  if (parts.length !== 2)
    throw new Error(`${bug.find} is ${parts.length - 1} times in ${bug.file}`)
  return { format: 'module', source: parts.join(bug.replace), shortCircuit: true }
}
