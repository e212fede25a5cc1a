export interface Bar {
  readonly name: string
  /** One for each series. */
  readonly values: readonly number[]
}

const WIDTH = 720
const LABEL = 130
const BAR = 16
const GAP = 14
const COLOURS = ['#4c78a8', '#f58518']

/** A bar chart as SVG. */
export function drawBars(
  title: string,
  series: readonly string[],
  bars: readonly Bar[],
): string {
  const most = Math.max(...bars.flatMap(({ values }) => values), 1e-9)
  const scale = (WIDTH - LABEL - 70) / most
  const group = BAR * series.length + GAP
  const height = 60 + group * bars.length
  const text = (x: number, y: number, content: string, anchor = 'start'): string =>
    `<text x="${x}" y="${y}" text-anchor="${anchor}">${content}</text>`
  const rect = (x: number, y: number, width: number, colour: string): string =>
    `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="${BAR - 2}" fill="${colour}"/>`
  const colourOf = (index: number): string => COLOURS[index % COLOURS.length] ?? ''
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="white"/>`,
    text(10, 20, title),
    ...series.flatMap((name, index) => [
      rect(LABEL + 100 * index, 28, 12, colourOf(index)),
      text(LABEL + 100 * index + 18, 39, name),
    ]),
  ]
  for (const [place, { name, values }] of bars.entries()) {
    const top = 52 + group * place
    lines.push(text(LABEL - 8, top + BAR, name, 'end'))
    for (const [index, value] of values.entries()) {
      const y = top + BAR * index
      lines.push(rect(LABEL, y, value * scale, colourOf(index)))
      lines.push(text(LABEL + value * scale + 6, y + BAR - 4, value.toFixed(2)))
    }
  }
  return `${[...lines, '</svg>'].join('\n')}\n`
}
