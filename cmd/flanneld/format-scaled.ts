const UNITS = ['', 'k', 'M', 'G', 'T'] as const

/** `0 `, `12 `, `1.4 k`, `930 M`: three figures at most, and a blank before the unit. */
export function formatScaled(value: number): string {
  let [scaled, unit] = [value, 0]
  while (scaled >= 999.5 && unit < UNITS.length - 1)
    [scaled, unit] = [scaled / 1000, unit + 1]
  const digits = unit > 0 && scaled < 9.95 ? 1 : 0
  return `${scaled.toFixed(digits)} ${UNITS[unit] ?? ''}`
}
