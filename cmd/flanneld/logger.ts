import { fstatSync, writeSync } from 'node:fs'
import { type Logger, pino } from 'pino'
import { escapeControls } from './plain-text.js'

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export const LOG_FORMATS = ['text', 'json'] as const
export type LogFormat = (typeof LOG_FORMATS)[number]

const STDERR = 2

/** Who reads standard error: `journal` has the time already, and takes a priority. */
export type LogReader = 'terminal' | 'journal' | 'other'

/** Logs go to standard error, as flannel's do; standard output is for answers. */
export function openLogger(level: LogLevel, format: LogFormat): Logger {
  const reader = findReader()
  const formatted = format === 'json' ? formatJson : formatLine
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
    },
    {
      write: (line: string) => {
        write(formatted(line, reader))
      },
    },
  )
}

function findReader(): LogReader {
  if (isJournal(process.env['JOURNAL_STREAM'])) return 'journal'
  const isColoured = process.stderr.isTTY && process.env['NO_COLOR'] === undefined
  return isColoured ? 'terminal' : 'other'
}

/** systemd.exec(5): device and inode of what a unit's output goes to, unless that was led elsewhere. */
function isJournal(stream: string | undefined): boolean {
  if (stream === undefined) return false
  const { dev, ino } = fstatSync(STDERR)
  return stream === `${dev}:${ino}`
}

/** sd-daemon(3), after syslog(3). */
const PRIORITIES: Readonly<Record<string, number>> = {
  debug: 7,
  info: 6,
  warn: 4,
  error: 3,
  fatal: 2,
}

function priorityOf(level: string): string {
  return `<${PRIORITIES[level] ?? 6}>`
}

const COLOURS: Readonly<Record<string, string>> = {
  warn: '\x1b[33m',
  error: '\x1b[31m',
  fatal: '\x1b[31m',
}
const RESET = '\x1b[0m'

function write(text: string): void {
  try {
    writeSync(STDERR, text)
  } catch (error) {
    // A closed pipe or a full terminal must not end the network.
    if ((error as NodeJS.ErrnoException).code === undefined) throw error
  }
}

function formatJson(line: string, reader: LogReader): string {
  if (reader !== 'journal') return line
  const { level } = JSON.parse(line) as { level?: unknown }
  return `${priorityOf(String(level))}${line}`
}

/** `10:33:21 INFO  lease acquired  subnet=10.5.72.0/24` from a line of JSON. */
export function formatLine(line: string, reader: LogReader): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
  const name = String(level)
  const message = escapeControls(String(msg))
  const tail = Object.entries(fields).map(
    ([key, value]) => `${key}=${formatValue(value)}`,
  )
  return `${[`${headOf(name, time, reader)}${message}`, ...tail].join('  ')}\n`
}

function headOf(name: string, time: unknown, reader: LogReader): string {
  if (reader === 'journal') return priorityOf(name)
  const clock = typeof time === 'string' ? time.slice(11, 19) : ''
  const paint = reader === 'terminal' ? COLOURS[name] : undefined
  const label = name.toUpperCase().padEnd(5)
  return `${clock} ${paint === undefined ? label : `${paint}${label}${RESET}`} `
}

function formatValue(value: unknown): string {
  const plain = typeof value === 'string' && value !== '' && !/[\s"=]/.test(value)
  return escapeControls(plain ? value : JSON.stringify(value))
}
