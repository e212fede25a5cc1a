/** The middle of some numbers. */
export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

/** Prints a table in Markdown, to be pasted into a README. */
export function printTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  for (const row of [header, header.map(() => '---'), ...rows])
    console.log(`| ${row.join(' | ')} |`)
}
