import { writeSync } from 'node:fs'
import { type Logger, pino } from 'pino'

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export const LOG_FORMATS = ['text', 'json'] as const
export type LogFormat = (typeof LOG_FORMATS)[number]

const STDERR = 2

/** Logs go to standard error, as flannel's do; standard output is for answers. */
export function openLogger(level: LogLevel, format: LogFormat): Logger {
  const colour = process.stderr.isTTY && process.env['NO_COLOR'] === undefined
  const destination =
    format === 'json'
      ? pino.destination({ fd: STDERR, sync: true })
      : {
          write: (line: string) => {
            writeText(line, colour)
          },
        }
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
    },
    destination,
  )
}

const COLOURS: Readonly<Record<string, string>> = {
  warn: '\x1b[33m',
  error: '\x1b[31m',
  fatal: '\x1b[31m',
}
const RESET = '\x1b[0m'

function writeText(line: string, colour: boolean): void {
  const text = formatLine(line, colour)
  try {
    writeSync(STDERR, text)
  } catch (error) {
    // A closed pipe or a full terminal must not end the network.
    if ((error as NodeJS.ErrnoException).code === undefined) throw error
  }
}

/** `10:33:21 INFO  lease acquired  subnet=10.5.72.0/24` from a line of JSON. */
export function formatLine(line: string, colour: boolean): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
  const clock = typeof time === 'string' ? time.slice(11, 19) : ''
  const name = String(level)
  const paint = colour ? COLOURS[name] : undefined
  const label = name.toUpperCase().padEnd(5)
  const head = `${clock} ${paint === undefined ? label : `${paint}${label}${RESET}`} ${escapeControls(String(msg))}`
  const tail = Object.entries(fields).map(
    ([key, value]) => `${key}=${formatValue(value)}`,
  )
  return `${[head, ...tail].join('  ')}\n`
}

function formatValue(value: unknown): string {
  const plain = typeof value === 'string' && value !== '' && !/[\s"=]/.test(value)
  return escapeControls(plain ? value : JSON.stringify(value))
}

/**
 * One message is one line, and nothing in it moves the cursor: keys in etcd and
 * the words of other programs are not ours.
 */
function escapeControls(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what it is about
  return text.replace(/[\0-\x1f\x7f-\x9f\u2028-\u202e]/g, character => {
    const code = character.charCodeAt(0)
    return code === 10 ? '\\n' : `\\u${code.toString(16).padStart(4, '0')}`
  })
}
