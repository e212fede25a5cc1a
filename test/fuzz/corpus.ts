import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const DIRECTORY = new URL('../../../test/fuzz/corpus/', import.meta.url)

/** Where the inputs of a target are kept, one in a line, in Base64. */
export function corpusFile(target: string): string {
  return fileURLToPath(new URL(`${target}.txt`, DIRECTORY))
}

export async function readCorpus(target: string): Promise<Buffer[]> {
  const text = await readFile(corpusFile(target), 'utf8').catch(() => '')
  return text
    .split('\n')
    .filter(line => line !== '')
    .map(line => Buffer.from(line, 'base64'))
}

export async function writeCorpus(
  target: string,
  inputs: readonly Buffer[],
): Promise<void> {
  const lines = inputs.map(input => `${input.toString('base64')}\n`)
  await writeFile(corpusFile(target), lines.join(''))
}
