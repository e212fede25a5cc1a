/** Inserts into a list whose last has the least number, before those with the same: they come first from the end. */
export function insertDescending<T>(
  list: T[],
  item: T,
  numberOf: (item: T) => number,
): void {
  const number = numberOf(item)
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >> 1
    const other = list[middle]
    if (other === undefined || numberOf(other) <= number) high = middle
    else low = middle + 1
  }
  list.splice(low, 0, item)
}
