import type { JsonObject } from '../subnet/go-json.js'
import { option } from '../subnet/network-config.js'
import { BackendError } from './errors.js'

/** A number among the options of `Backend`. Throws ERR_BACKEND_OPTION. */
export function readNumber(
  options: JsonObject,
  name: string,
  { least, most, otherwise }: { least: number; most: number; otherwise: number },
): number {
  const value = option(options, name)
  if (value === undefined) return otherwise
  if (
    typeof value === 'number' &&
    Number.isInteger(value) &&
    value >= least &&
    value <= most
  )
    return value
  throw wrong(name, value, `a number from ${least} to ${most}`)
}

/** A switch among the options of `Backend`. Throws ERR_BACKEND_OPTION. */
export function readSwitch(
  options: JsonObject,
  name: string,
  otherwise = false,
): boolean {
  const value = option(options, name)
  if (value === undefined || typeof value === 'boolean') return value ?? otherwise
  throw wrong(name, value, 'true or false')
}

function wrong(name: string, value: unknown, wanted: string): BackendError {
  return new BackendError(
    'ERR_BACKEND_OPTION',
    `Backend.${name} is ${JSON.stringify(value)}; it must be ${wanted}`,
  )
}
