import { formatVariable } from '../../lib/subnet/subnet-env.js'
import type { FlagTable } from '../flanneld/command-line.js'
import { environmentName } from '../flanneld/flag-table.js'
import { offered } from './completion.js'

const WIDTH = 90

/** A file of every variable, each a comment with its default: for /etc/default. */
export function environmentFile(flags: FlagTable): string {
  const variables = offered(flags)
    .filter(([, { environment }]) => environment !== false)
    .map(
      ([name, { describe, default: value }]) =>
        `${comment(describe)}\n#${formatVariable(environmentName(name), value)}\n`,
    )
  return `# Settings of flanneld: take away the # of what is to differ. A flag on the command
# line counts more. The password of etcd is better off in a file of its own, which
# FLANNELD_ETCD_PASSWORD_FILE names: everybody may read this one.
# Made by "npm run documents" from the table of flags.

${variables.join('\n')}`
}

function comment(text: string): string {
  const lines = ['']
  for (const word of text.split(' ')) {
    const line = lines.at(-1) ?? ''
    if (line.length + word.length + 3 > WIDTH) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines.map(line => `# ${line}`).join('\n')
}
