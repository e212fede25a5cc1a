/** Pages for man(1), in the macros of man(7). */

export interface Section {
  readonly title: string
  readonly parts: readonly Part[]
}

/** A paragraph; a text whose lines stay as they are; or an item and what it means. */
export type Part =
  | { readonly paragraph: string }
  | { readonly verbatim: string }
  | { readonly item: string; readonly text: string }

export interface ManPage {
  readonly name: string
  readonly section: number
  readonly summary: string
  readonly version: string
  readonly sections: readonly Section[]
}

export function formatManPage({
  name,
  section,
  summary,
  version,
  sections,
}: ManPage): string {
  const lines = [
    '.\\" Made by "npm run documents" from the tables of flags and commands.',
    `.TH ${name.toUpperCase()} ${section} "" "flanneld ${version}" ""`,
    '.SH NAME',
    `${escape(name)} \\- ${escape(summary)}`,
    ...sections.flatMap(({ title, parts }) => [
      `.SH ${title}`,
      ...parts.flatMap(formatPart),
    ]),
  ]
  return `${lines.join('\n')}\n`
}

function formatPart(part: Part): string[] {
  if ('paragraph' in part) return ['.PP', escape(part.paragraph)]
  if ('verbatim' in part)
    return ['.PP', '.nf', ...part.verbatim.split('\n').map(escape), '.fi']
  return ['.TP', `.B ${escape(part.item)}`, escape(part.text)]
}

/** Hyphens that may be copied, and nothing that roff takes for a request or an escape. */
function escape(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/[^\n -~]/gu, each => `\\[u${codeOf(each)}]`)
    .replace(/^(?=[.'])/gm, '\\&')
}

/** Of a character, as groff_char(7) wants it. */
function codeOf(character: string): string {
  return (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')
}
