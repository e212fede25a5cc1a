/** Asks about so many at a time that neither they nor we are flooded. */
export async function inChunks<T, Answer>(
  items: readonly T[],
  size: number,
  ask: (item: T) => Promise<Answer>,
): Promise<Answer[]> {
  const answers: Answer[] = []
  for (let start = 0; start < items.length; start += size) {
    const some = items.slice(start, start + size)
    answers.push(...(await Promise.all(some.map(ask))))
  }
  return answers
}
