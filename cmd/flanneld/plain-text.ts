/**
 * Control characters, and those that turn the direction of what follows: in a terminal they
 * move the cursor and make one text look like another. Keys and values in etcd, and the words
 * of other programs, are not ours.
 */
// eslint-disable-next-line no-control-regex -- control characters are what it is about
const CONTROLS = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** One line, whatever it was, in which each of them is written as \uXXXX. */
export function escapeControls(text: string): string {
  return text.replace(CONTROLS, character =>
    character === '\n' ? '\\n' : numberOf(character),
  )
}

/** Has a stream escape them in every text that is written to it, but for ends of lines and tabs; bytes stay as they are. */
export function keepPlain(stream: NodeJS.WriteStream): void {
  const write = stream.write.bind(stream) as (...args: unknown[]) => boolean
  stream.write = (chunk: unknown, ...rest: unknown[]) =>
    write(typeof chunk === 'string' ? escapeInLines(chunk) : chunk, ...rest)
}

function escapeInLines(text: string): string {
  return text.replace(CONTROLS, character =>
    character === '\n' || character === '\t' ? character : numberOf(character),
  )
}

function numberOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
