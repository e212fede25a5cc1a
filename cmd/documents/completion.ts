import { quoteWord } from '../../lib/linux/words.js'
import type { FlagTable } from '../flanneld/command-line.js'
import type { Flag } from '../flanneld/flag-table.js'

/** A program, or a command of one, and what may be written behind it. */
export interface Completed {
  readonly name: string
  readonly summary: string
  readonly flags: FlagTable
}

/** Flags that may be given: those that are refused are not offered. */
export function offered(flags: FlagTable): [string, Flag][] {
  return Object.entries(flags).filter(([, { refused }]) => refused === undefined)
}

const MADE = '# Made by "npm run documents" from the tables of flags and commands.'

/** For bash, without the package bash-completion. */
export function bashCompletion(
  flanneld: FlagTable,
  commands: readonly Completed[],
): string {
  const words = (flags: FlagTable): string =>
    offered(flags)
      .map(([name, { type }]) => `--${name}${type === 'boolean' ? '' : '='}`)
      .join(' ')
  const cases = commands.map(
    ({ name, flags }) => `    ${name}) words="${words(flags)}" ;;`,
  )
  return `${MADE}
_flanneld_words() {
  local word=\${COMP_LINE:0:COMP_POINT}
  word=\${word##* }
  if [[ $word == --*=* ]]; then
    compopt -o default
    COMPREPLY=()
    return
  fi
  compopt -o nospace
  COMPREPLY=($(compgen -W "$1" -- "$word"))
  [[ \${#COMPREPLY[@]} == 1 && \${COMPREPLY[0]} != *= ]] && compopt +o nospace
}

_flanneld() {
  _flanneld_words "${words(flanneld)} --version --help"
}

_flannelctl() {
  local words=
  if ((COMP_CWORD == 1)); then
    _flanneld_words "${commands.map(({ name }) => name).join(' ')} --version --help"
    return
  fi
  case \${COMP_WORDS[1]} in
${cases.join('\n')}
  esac
  _flanneld_words "$words --help"
}

complete -F _flanneld flanneld
complete -F _flannelctl flannelctl
`
}

/** For zsh, in a file that its fpath finds. */
export function zshCompletion(
  flanneld: FlagTable,
  commands: readonly Completed[],
): string {
  const cases = commands.map(
    ({ name, flags }) =>
      `    ${name})\n      _arguments -s ${specs(flags)} '*:argument:_default' ;;`,
  )
  const list = commands.map(
    ({ name, summary }) => `    ${quoteWord(`${name}:${summary}`)}`,
  )
  return `#compdef flanneld flannelctl
${MADE}
_flannelctl_commands() {
  local -a commands=(
${list.join('\n')}
  )
  _describe command commands
}

if [[ $service == flanneld ]]; then
  _arguments -s ${specs(flanneld)} '--version[tell the version]'
elif ((CURRENT == 2)); then
  _flannelctl_commands
else
  case $words[2] in
${cases.join('\n')}
  esac
fi
`
}

function specs(flags: FlagTable): string {
  return [
    ...offered(flags).map(([name, { type, describe, choices }]) => {
      const text = describe.replaceAll(/[[\]:\\]/g, '\\$&')
      const values = choices === undefined ? '_default' : `(${choices.join(' ')})`
      const value = type === 'boolean' ? '' : `=:value:${values}`
      // One that may be given several times.
      return quoteWord(
        `${type === 'strings' ? '*' : ''}--${name}${value.slice(0, 1)}[${text}]${value.slice(1)}`,
      )
    }),
    quoteWord('--help[tell more]'),
  ].join(' ')
}
