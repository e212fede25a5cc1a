/** Writes what is made from the tables of flags and commands: npm run documents. */
import { mkdir, writeFile } from 'node:fs/promises'
import { makeDocuments } from './documents.js'

const ROOT = new URL('../../../', import.meta.url)

for (const [path, text] of await makeDocuments(ROOT)) {
  const place = new URL(path, ROOT)
  await mkdir(new URL('.', place), { recursive: true })
  await writeFile(place, text)
}
