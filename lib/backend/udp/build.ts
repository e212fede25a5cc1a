import { createHash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync } from 'node:fs'

/** What the packet path is made of. */
const FOLDERS = ['.', '../../encap', '../../linux']

/** A name for the program of the packet path as it is on disk: another for whatever else it was built from. */
export const BUILD = nameBuild()

function nameBuild(): string {
  const hash = createHash('sha256')
  for (const folder of FOLDERS) {
    const url = new URL(`${folder}/`, import.meta.url)
    const files = existsSync(url) ? readdirSync(url) : []
    for (const file of files.filter(name => name.endsWith('.js')).sort())
      hash.update(file).update(readFileSync(new URL(file, url)))
  }
  return hash.digest('hex').slice(0, 16)
}
