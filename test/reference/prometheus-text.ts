/**
 * The text format of Prometheus 0.0.4, read strictly: every sample belongs to a
 * metric whose HELP and TYPE stand before it. Throws SyntaxError.
 */
export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface Metric {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: Sample[]
}

const SAMPLE =
  /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([Nn]a[Nn]|[+-]?Inf|-?[0-9.e+-]+)(?: \d+)?$/
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/
const SUFFIX = /_(sum|count|bucket)$/

export function parsePrometheus(text: string): ReadonlyMap<string, Metric> {
  const metrics = new Map<string, Metric>()
  const helps = new Map<string, string>()
  if (!text.endsWith('\n')) throw new SyntaxError('no newline at the end')
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue
    const [, keyword, name = '', rest = ''] =
      /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? []
    if (keyword === 'HELP') helps.set(name, rest)
    else if (keyword === 'TYPE') {
      const help = helps.get(name)
      if (help === undefined) throw new SyntaxError(`no HELP before: ${line}`)
      if (metrics.has(name)) throw new SyntaxError(`twice: ${line}`)
      metrics.set(name, { name, type: rest, help, samples: [] })
    } else if (!line.startsWith('#')) addSample(metrics, line)
  }
  return metrics
}

function addSample(metrics: Map<string, Metric>, line: string): void {
  const [, name, labels = '', value] = SAMPLE.exec(line) ?? []
  if (name === undefined) throw new SyntaxError(`no sample: ${line}`)
  const metric = metrics.get(name) ?? metrics.get(name.replace(SUFFIX, ''))
  if (metric === undefined) throw new SyntaxError(`no TYPE before: ${line}`)
  metric.samples.push({ name, labels: readLabels(labels), value: Number(value) })
}

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  for (let rest = text; rest !== '';) {
    const [whole, name, value = ''] = LABEL.exec(rest) ?? []
    if (whole === undefined || name === undefined)
      throw new SyntaxError(`no labels: ${text}`)
    labels[name] = value
    rest = rest.slice(whole.length)
  }
  return labels
}
