const VARIABLE = /^\$(?:\{(\w+)\}|(\w+))/

/**
 * Splits a command line into words as a shell does: blanks separate, single and
 * double quotes and backslashes keep together. Nothing that only a shell could do
 * is taken. Throws SyntaxError.
 *
 * @param variables that $NAME and ${NAME} stand for, outside single quotes; what
 *   they hold is never split. Without any, nothing is expanded.
 */
export function splitWords(
  text: string,
  variables?: Readonly<Record<string, string>>,
): string[] {
  const words: string[] = []
  let word: string | undefined
  let quote: string | undefined
  for (let index = 0; index < text.length; index++) {
    const letter = text.charAt(index)
    const next = text.charAt(index + 1)
    const [reference, long, short] =
      variables === undefined || letter !== '$' || quote === "'"
        ? []
        : (VARIABLE.exec(text.slice(index)) ?? [])
    if (reference !== undefined) {
      word = `${word ?? ''}${variables?.[long ?? short ?? ''] ?? ''}`
      index += reference.length - 1
    } else if (quote !== undefined) {
      if (letter === quote) quote = undefined
      else if (letter === '\\' && quote === '"' && /["\\$`]/.test(next)) {
        word = `${word ?? ''}${next}`
        index += 1
      } else word = `${word ?? ''}${letter}`
    } else if (letter === '"' || letter === "'") {
      quote = letter
      word ??= ''
    } else if (letter === '\\') {
      word = `${word ?? ''}${next}`
      index += 1
    } else if (/\s/.test(letter)) {
      if (word !== undefined) words.push(word)
      word = undefined
    } else if (/[|&;<>()$`*?~#\n]/.test(letter)) {
      throw new SyntaxError(
        `${JSON.stringify(letter)} in ${JSON.stringify(text)} needs a shell, and there is none; quote it, or put it into a script`,
      )
    } else {
      word = `${word ?? ''}${letter}`
    }
  }
  if (quote !== undefined) {
    throw new SyntaxError(`a ${quote} in ${JSON.stringify(text)} is not closed`)
  }
  if (word !== undefined) words.push(word)
  return words
}

/** One word for a shell, whatever is in it: what splitWords takes apart again. */
export function quoteWord(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}
