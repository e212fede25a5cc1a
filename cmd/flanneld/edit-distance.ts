/** Says that a word is unknown, and which known one it comes close to. */
export function describeUnknown(
  what: string,
  word: string,
  known: readonly string[],
): string {
  const [near] = known
    .map(candidate => ({ candidate, distance: editDistance(word, candidate) }))
    .sort((a, b) => a.distance - b.distance)
  const hint =
    near !== undefined && near.distance <= Math.max(2, word.length / 3)
      ? `did you mean ${near.candidate}?`
      : `--help lists all ${what}s`
  return `unknown ${what} ${word}; ${hint}`
}

/** Levenshtein's distance: how many letters must change. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
